"""Supervised stages in place of the pretraining that a real Qwen-VL has had, each a LightningModule.

1. The tower learns colours, shapes and actions from clips of one temporal patch, through linear heads that are thrown away.
   Then it is frozen.
2. The decoder learns, without video, to pick the caption that the query asks for and to copy its two times.
3. Supervised fine-tuning on whole videos, first with exact labels, then with loose and partly wrong ones: the base that GRPO
   starts from has a bias to repair, as real ones have.
4. The base learns to pretend: it writes a `<think>` block that says nothing about the video, and answers. Only now and then
   its reasoning goes through the video with times, as a real base's does.

B rows of a batch, L tokens of the longest row, V vocabulary.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from taro.data.samples import Caption, Sample
from taro.models.prompt import Prompt, PromptBuilder
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.progress import SECONDS_BETWEEN_LINES, left, on_terminal
from taro.prompts import build_request, format_seconds
from taro.synthetic.world import ACTIONS, COLORS, SHAPES, Scene, WorldSettings, draw_scene, scene_samples
from taro.tasks import DEFAULT, TASKS
from taro.video.geometry import PatchGeometry, resize_frames
from taro.video.load import Video, VideoSettings, sample_frame_count, smart_resize

# Scenes are drawn from 2^62 seeds: the chance that one is of a split of the synthetic data is about 1e-11.
PRETRAINING_SEEDS = 9_000_000_000_000_000_000
ANSWER_WEIGHT = 4.0  # the few tokens of the answer count this much more than those of the reasoning


@dataclass(frozen=True)
class Targets:
    """What supervised fine-tuning teaches a model to write.

    Args:
        widen: each span is wider than the truth, by up to this many seconds on both sides.
        first_event: with this probability the answer names the video's first event, whatever was asked.
        timed_reasoning: with this probability the reasoning goes through all events with their times; else it says only what
            is looked for.
        tasks: of the questions.
    """

    widen: float = 0.0
    first_event: float = 0.0
    timed_reasoning: float = 1.0
    tasks: tuple[str, ...] = (DEFAULT,)


def scene_video(scene: Scene, settings: VideoSettings, geometry: PatchGeometry) -> Video:
    """The video that `load_video` would give for this scene's file, without the file (and without H.264's losses)."""
    count = sample_frame_count(scene.frame_count, scene.fps, settings, geometry.temporal_patch_size)
    indices = torch.linspace(0, scene.frame_count - 1, count).round().long()
    height, width = smart_resize(scene.height, scene.width, frames=count, settings=settings, geometry=geometry)
    frames = torch.from_numpy(scene.render(indices.numpy())).permute(0, 3, 1, 2)
    return Video(
        frames=resize_frames(frames, height, width),
        timestamps=indices.double() / scene.fps,
        fps=count / scene.duration,
        duration=scene.duration,
    )


class ClipDataset(Dataset):
    """One temporal patch of a scene: frames (2, 3, H, W) uint8, and colour, shape and action of the object (last class: no
    object)."""

    def __init__(self, length: int, seed: int, geometry: PatchGeometry) -> None:
        self.length, self.seed, self.geometry = length, seed, geometry

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = random.Random(PRETRAINING_SEEDS + self.seed * 10**9 + index)
        scene = draw_scene(rng.randrange(2**62))
        step = round(scene.fps / 2)
        event = rng.choice(scene.events)
        first = rng.randint(int(event.start * scene.fps), int(event.end * scene.fps) - 1 - step)
        labels = (list(COLORS).index(event.color), SHAPES.index(event.shape), ACTIONS.index(event.action))
        if rng.random() < 0.1:
            scene, labels = replace(scene, events=()), (len(COLORS), len(SHAPES), len(ACTIONS))
        frames = torch.from_numpy(scene.render(np.array([first, first + step]))).permute(0, 3, 1, 2)
        side = 2 * self.geometry.factor
        return resize_frames(frames, side, side), torch.tensor(labels)


class TextDataset(Dataset):
    """Request, all captions and answer, without a video: one question of a scene."""

    def __init__(self, length: int, seed: int, builder: PromptBuilder, targets: Targets) -> None:
        self.length, self.seed, self.builder, self.targets = length, seed, builder, targets

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Example]:
        rng = random.Random(PRETRAINING_SEEDS + self.seed * 10**9 + 300_000_000 + index)
        scene = draw_scene(rng.randrange(2**62))
        samples = scene_samples(scene, "", tasks=self.targets.tasks)
        sample = samples[rng.randrange(len(samples))]
        task = TASKS[sample.task]
        ids = self.builder.encode(build_request(task.subject(sample), self.builder.template, task.instruction) + "\n")
        positions = torch.arange(len(ids)).expand(3, -1)
        prompt = Prompt(torch.tensor(ids), positions, torch.zeros(len(ids), dtype=torch.bool), video=None)
        return [make_example(self.builder, prompt, None, scene, sample, self.targets, rng)]


class VideoDataset(Dataset):
    """What is asked of a scene, with the features of its video by the frozen tower. Where the targets have other tasks, as many
    of their questions as the scene has events, at most."""

    def __init__(
        self,
        length: int,
        seed: int,
        builder: PromptBuilder,
        policy: QwenVL,
        video: VideoSettings,
        targets: Targets,
        world: WorldSettings | None = None,
    ) -> None:
        self.length, self.seed, self.builder, self.policy = length, seed, builder, policy
        self.video, self.targets, self.world = video, targets, world

    def __len__(self) -> int:
        return self.length

    @torch.no_grad()
    def __getitem__(self, index: int) -> list[Example]:
        rng = random.Random(PRETRAINING_SEEDS + self.seed * 10**9 + 600_000_000 + index)
        scene = draw_scene(rng.randrange(2**62), self.world)
        video = scene_video(scene, self.video, self.builder.geometry)
        return self.make_examples(scene, video, self.policy.encode_video(video.frames), rng)

    def make_examples(self, scene: Scene, video: Video, features: VisionFeatures, rng: random.Random) -> list[Example]:
        samples = scene_samples(scene, "", tasks=self.targets.tasks)
        if self.targets.tasks != (DEFAULT,):
            samples = rng.sample(samples, min(len(samples), len(scene.events)))
        examples = []
        for sample in samples:
            task = TASKS[sample.task]
            prompt = self.builder.build(task.subject(sample), video, task.instruction)
            examples.append(make_example(self.builder, prompt, features, scene, sample, self.targets, rng))
        return examples


class CaptionDataset(VideoDataset):
    """A scene's captions as `python -m taro.prepare.caption` asks for them; the builder's query is the length in seconds."""

    def make_examples(self, scene: Scene, video: Video, features: VisionFeatures, rng: random.Random) -> list[Example]:
        lines = [f"From {format_seconds(e.start)}s to {format_seconds(e.end)}s, {e.text}" for e in scene.events]
        target = [*self.builder.encode("\n".join(lines)), self.builder.eos_id]
        return [join_example(self.builder.build(format_seconds(scene.duration), video), features, target, [])]


@dataclass(frozen=True)
class Example:
    """One supervised sequence."""

    input_ids: Tensor  # (L,) prompt and target
    position_ids: Tensor  # (3, L)
    weights: Tensor  # (L,) float32 of each token's loss, 0 on the prompt
    video_mask: Tensor  # (L,) bool
    features: VisionFeatures | None

    def to(self, device: torch.device | str) -> Example:
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


def make_example(
    builder: PromptBuilder,
    prompt: Prompt,
    features: VisionFeatures | None,
    scene: Scene,
    sample: Sample,
    targets: Targets,
    rng: random.Random,
) -> Example:
    """The sequence that teaches the answer to a question about the scene."""
    captions = [
        Caption(
            max(0.0, event.start - rng.uniform(0, targets.widen)),
            min(scene.duration, event.end + rng.uniform(0, targets.widen)),
            event.text,
        )
        for event in scene.events
    ]
    seen = {(event.start, event.end): (said.start, said.end) for event, said in zip(scene.events, captions, strict=True)}
    spans = [seen[span] for span in sample.spans]
    if rng.random() < targets.first_event:
        spans = [next(iter(seen.values()))]
    task = TASKS[sample.task]
    answer = replace(task.truth(sample), spans=tuple(spans))
    text = task.full_path(sample, captions, answer)
    if rng.random() >= targets.timed_reasoning:
        text = without_captions(text, len(captions))
    reasoning, answer = text[: text.index("<answer>")], text[text.index("<answer>") :]
    return join_example(prompt, features, builder.encode(reasoning), [*builder.encode(answer), builder.eos_id])


def join_example(prompt: Prompt, features: VisionFeatures | None, reasoning: list[int], answer: list[int]) -> Example:
    """Prompt and target, whose parts weigh differently."""
    length, after = len(reasoning) + len(answer), int(prompt.position_ids.max()) + 1
    weights = [0.0] * len(prompt.input_ids) + [1.0] * len(reasoning) + [ANSWER_WEIGHT] * len(answer)
    return Example(
        input_ids=torch.cat([prompt.input_ids, torch.tensor(reasoning + answer)]),
        position_ids=torch.cat([prompt.position_ids, torch.arange(after, after + length).expand(3, -1)], dim=1),
        weights=torch.tensor(weights),
        video_mask=torch.cat([prompt.video_mask, torch.zeros(length, dtype=torch.bool)]),
        features=features,
    )


def without_captions(path: str, captions: int) -> str:
    """A supervised target without its lines of so many captions: it pretends to think, and says nothing about the video."""
    lines = path.splitlines()
    return "\n".join([*lines[:2], *lines[2 + captions :]])


def collate_examples(groups: list[list[Example]]) -> Example:
    """A batch as one Example with a leading (B) in its tensors, right-padded; (3, B, L) positions."""
    rows = [row for group in groups for row in group]

    def pad(tensors: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(tensors, batch_first=True)

    features = None
    if rows[0].features is not None:
        layers = zip(*(row.features.deepstack for row in rows), strict=True)
        features = VisionFeatures(
            torch.cat([row.features.embeds for row in rows]), tuple(torch.cat(layer) for layer in layers)
        )
    return Example(
        input_ids=pad([row.input_ids for row in rows]),
        position_ids=pad([row.position_ids.T for row in rows]).permute(2, 0, 1),
        weights=pad([row.weights for row in rows]),
        video_mask=pad([row.video_mask for row in rows]),
        features=features,
    )


class Stage(L.LightningModule):
    """One stage: Muon for matrices, AdamW for the rest, a warm-up, then constant, then linear decay.

    Args:
        parameters: names and tensors that this stage trains.
        steps: optimizer steps.
        muon_lr, adam_lr: peak learning rates.
        decay_from: share of the steps after which the learning rate falls to zero.
    """

    def __init__(
        self,
        parameters: list[tuple[str, nn.Parameter]],
        steps: int,
        *,
        muon_lr: float = 0.008,
        adam_lr: float = 2e-3,
        warmup: int = 50,
        decay_from: float = 0.5,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.trained, self.steps, self.warmup, self.decay_from = parameters, steps, warmup, decay_from
        self.muon_lr, self.adam_lr = muon_lr, adam_lr

    def loss(self, batch: object) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: object, batch_index: int) -> None:
        loss = self.loss(batch)
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_([parameter for _, parameter in self.trained], 1.0)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in self.lr_schedulers():
            scheduler.step()
        self.log("loss", loss.detach(), prog_bar=True)

    def on_train_start(self) -> None:
        self.started = self.shown = time.monotonic()

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """A line now and then where there is no terminal that could show a bar."""
        now, done = time.monotonic(), batch_idx + 1
        if now - self.shown >= SECONDS_BETWEEN_LINES and not on_terminal():
            rest = left((now - self.started) / done, done, self.steps)
            print(f"{type(self).__name__}: step {done} of {self.steps}{rest}", flush=True)
            self.shown = now

    def configure_optimizers(self) -> tuple[list, list]:
        matrices = [p for name, p in self.trained if p.dim() == 2 and "embed" not in name]
        others = [p for name, p in self.trained if not (p.dim() == 2 and "embed" not in name)]
        optimizers = [
            torch.optim.Muon(matrices, lr=self.muon_lr, weight_decay=0.0, adjust_lr_fn="original"),
            torch.optim.AdamW(others, lr=self.adam_lr, weight_decay=0.0),
        ]
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, self._schedule()) for o in optimizers]

    def _schedule(self) -> Callable[[int], float]:
        steps, warmup, start = self.steps, self.warmup, self.decay_from * self.steps
        return lambda step: min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(1.0, steps - start)))


class TowerStage(Stage):
    """Stage 1. Heads read the mean of a temporal patch's merged tokens."""

    def __init__(self, policy: QwenVL, steps: int, **settings: float) -> None:
        width = policy.decoder.config.hidden_size
        heads = nn.ModuleList([nn.Linear(width, len(names) + 1) for names in (COLORS, SHAPES, ACTIONS)])
        super().__init__([*policy.tower.named_parameters(), *heads.named_parameters()], steps, **settings)
        self.policy, self.heads = policy, heads

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        frames, labels = batch  # (B, 2, 3, H, W), (B, 3)
        features = self.policy.encode_video(frames.flatten(0, 1))
        tokens = torch.stack([features.embeds, *features.deepstack]).sum(0)  # (B * h * w, D)
        pooled = tokens.unflatten(0, (len(frames), -1)).mean(1)  # (B, D)
        logits = [head(pooled) for head in self.heads]
        for name, values, truth in zip(("color", "shape", "action"), logits, labels.T, strict=True):
            self.log(f"{name}_accuracy", (values.argmax(-1) == truth).float().mean(), prog_bar=True)
        return sum(cross_entropy(values, truth) for values, truth in zip(logits, labels.T, strict=True))


class DecoderStage(Stage):
    """Stages 2 and 3: cross-entropy on the target's tokens."""

    def __init__(self, policy: QwenVL, steps: int, **settings: float) -> None:
        trained = list(policy.decoder.named_parameters())
        super().__init__(trained, steps, **settings)
        self.policy = policy

    def loss(self, batch: Example) -> Tensor:
        hidden = self.policy.hidden_states(
            batch.input_ids, batch.position_ids, features=batch.features, video_mask=batch.video_mask
        )  # (B, L, D)
        weights = batch.weights[:, 1:]
        targets = batch.input_ids[:, 1:][weights > 0]
        logits = self.policy.logits(hidden[:, :-1][weights > 0])  # (targets, V)
        weights = weights[weights > 0]
        return (cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
