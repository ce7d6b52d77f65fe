"""Train a tiny base model from scratch, on a CPU; its `recipe.json` says how long it took:

    python -m taro.synthetic.tiny --family qwen2_5_vl --output assets/tiny-qwen2.5-vl
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from taro.command_line import Parser
from taro.errors import clean_exit
from taro.evaluation.metrics import GroundingMetrics
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.prompts import parse_answer
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings
from taro.synthetic.architecture import FAMILIES, TINY_PROMPT, TINY_VIDEO, save_random
from taro.synthetic.pretraining import (
    ClipDataset,
    DecoderStage,
    LabelNoise,
    Stage,
    TextDataset,
    TowerStage,
    VideoDataset,
    collate_examples,
    scene_video,
)
from taro.synthetic.world import draw_scene
from taro.video.load import VideoSettings


@dataclass(frozen=True)
class Recipe:
    """Steps and labels of the three stages."""

    tower_steps: int = 350
    tower_batch: int = 256
    text_steps: int = 1800
    text_batch: int = 32
    video_steps: int = 1300
    noisy_steps: int = 260
    video_batch: int = 7  # scenes; each gives a row for each of its events
    widen: float = 1.5
    first_event: float = 0.6
    seed: int = 0


def train(family: str, output: Path, recipe: Recipe) -> dict:
    """Run the recipe and write the model folder; returns what is written to its `recipe.json`."""
    started = time.time()
    save_random(output, family, recipe.seed)
    settings = GroundingSettings(TINY_PROMPT, TINY_VIDEO, 1024, None, 1024)
    settings.save(output)
    policy = QwenVL.from_pretrained(str(output))
    builder = PromptBuilder(str(output), settings.prompt, settings.max_prompt_tokens)
    log: dict = {"family": family, "recipe": asdict(recipe), "metrics": {}}

    clips = ClipDataset(recipe.tower_steps * recipe.tower_batch, recipe.seed, builder.geometry)
    stage: Stage = TowerStage(policy, recipe.tower_steps, muon_lr=0.02)
    log["metrics"]["tower"] = fit(stage, clips, recipe.tower_batch, recipe.seed)
    policy.freeze_tower()

    text = TextDataset(recipe.text_steps * recipe.text_batch, recipe.seed, builder)
    log["metrics"]["text"] = fit(DecoderStage(policy, recipe.text_steps), text, recipe.text_batch, recipe.seed)

    exact = VideoDataset(
        recipe.video_steps * recipe.video_batch, recipe.seed, builder, policy, settings.video, LabelNoise()
    )
    log["metrics"]["exact_labels"] = fit(DecoderStage(policy, recipe.video_steps), exact, recipe.video_batch, recipe.seed)
    log["metrics"]["exact_labels"] |= evaluate(policy, builder, settings.video, queries=256)

    noise = LabelNoise(recipe.widen, recipe.first_event)
    noisy = VideoDataset(
        recipe.noisy_steps * recipe.video_batch, recipe.seed + 1, builder, policy, settings.video, noise
    )
    stage = DecoderStage(policy, recipe.noisy_steps, muon_lr=0.004, adam_lr=1e-3)
    log["metrics"]["noisy_labels"] = fit(stage, noisy, recipe.video_batch, recipe.seed)

    policy.save_pretrained(output, dtype="float16")
    log["metrics"]["shipped"] = evaluate(
        QwenVL.from_pretrained(str(output)), builder, settings.video, queries=256
    )
    log["parameters"] = sum(parameter.numel() for parameter in policy.parameters())
    log["minutes"] = round((time.time() - started) / 60, 1)
    (output / "recipe.json").write_text(json.dumps(log, indent=2) + "\n")
    return log


def fit(stage: Stage, dataset: Dataset, batch_size: int, seed: int) -> dict[str, float]:
    """Train one stage; returns its last logged values."""
    L.seed_everything(seed, verbose=False)
    decoder = isinstance(stage, DecoderStage)
    loader = DataLoader(
        dataset, batch_size, num_workers=1, prefetch_factor=8, collate_fn=collate_examples if decoder else None
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    started = time.time()
    trainer.fit(stage, loader)
    values = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
    print(f"{type(stage).__name__}: {stage.steps} steps, {time.time() - started:.0f} s, {values}", flush=True)
    return values


@torch.no_grad()
def evaluate(policy: QwenVL, builder: PromptBuilder, video: VideoSettings, queries: int) -> dict[str, float]:
    """Greedy answers to one query for each of `queries` scenes of their own."""
    policy.eval()
    engine, metrics = NativeEngine(policy, builder.end_ids), GroundingMetrics()
    for start in range(0, queries, 32):
        scenes = [draw_scene(8_000_000_000_000_000_000 + start + number) for number in range(32)]
        events = [scene.events[scene.seed % len(scene.events)] for scene in scenes]
        prompts = [
            RolloutPrompt(builder.build(event.text, scene_video(scene, video, builder.geometry)), ((),), (0,))
            for scene, event in zip(scenes, events, strict=True)
        ]
        groups = engine.generate(prompts, SamplingSettings(temperature=0.0, max_tokens=192))
        texts = [builder.decode(group.completions[0]) for group in groups]
        metrics.update([parse_answer(text) for text in texts], [[(e.start, e.end)] for e in events], texts)
    policy.train()
    values = {name: round(float(value), 4) for name, value in metrics.compute().items()}
    print(values, flush=True)
    return values


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0])
    parser.add_argument("--output", type=Path, required=True)
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = vars(parser.parse_args(arguments))
    family, output = args.pop("family"), args.pop("output")
    train(family, output, Recipe(**args))


if __name__ == "__main__":
    with clean_exit():
        main()
