"""One group: its rollout, packed, and its log-probs on the true and on the shuffled video.

G completions, C tokens of the longest, F frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from taro.data.examples import TrainingExample
from taro.models.adapters import adapters_off
from taro.models.log_probs import GroupInputs, GroupLogProbs, compute_log_probs
from taro.models.packing import PackedGroup, pack_group
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.models.sharding import reshard
from taro.prompts import policy_part
from taro.rl.rewards.choose import Earned
from taro.rl.settings import TemporalRewardSettings
from taro.rollout import RolloutGroup
from taro.tasks import find_task
from taro.video.perturbation import Shuffle


@dataclass(frozen=True)
class Group:
    """A prompt with its completions, packed. Made by `make_group`."""

    example: TrainingExample
    rollout: RolloutGroup
    features: VisionFeatures
    packed: PackedGroup
    texts: tuple[str, ...]  # (G)
    token_spans: tuple[list[tuple[int, int]], ...]  # (G) characters of each token
    shuffled_texts: tuple[str, ...] = ()  # completions on the video with its frames in a random order, to compare with
    earned: Earned | None = None  # by its texts, where that had to be known before any pass

    @property
    def rollout_log_probs(self) -> Tensor:
        """(G, C), as the engine gave them; nan where it sampled nothing."""
        rows = torch.nn.utils.rnn.pad_sequence(self.rollout.log_probs, batch_first=True, padding_value=float("nan"))
        return rows.to(self.packed.response_mask.device)

    @property
    def sampled_mask(self) -> Tensor:
        """(G, C) bool, the tokens that the engine drew: without constructed prefixes."""
        lengths = torch.tensor([len(prefix) for prefix in self.example.prefixes], device=self.packed.response_mask.device)
        column = torch.arange(self.packed.response_mask.shape[1], device=lengths.device)
        return self.packed.response_mask & (column >= lengths[:, None])

    @property
    def policy_texts(self) -> tuple[str, ...]:
        """(G) what is rewarded: the texts, those of constructed completions from where the policy goes on."""
        starts = [
            0 if not prefix else spans[len(prefix)][0] if len(spans) > len(prefix) else len(text)
            for prefix, spans, text in zip(self.example.prefixes, self.token_spans, self.texts, strict=True)
        ]
        return tuple(policy_part(text, start) for text, start in zip(self.texts, starts, strict=True))

    def learned_mask(self, on_policy: bool) -> Tensor:
        """(G, C) bool, the tokens that the loss counts. Where the rollout is not the policy's own (`on_policy` False), those
        that were sampled without a finite log-prob can't be weighted."""
        mask = self.packed.response_mask
        return mask if on_policy else mask & (~self.sampled_mask | self.rollout_log_probs.isfinite())

    def moves_frames(self, shuffle: Shuffle) -> bool:
        """Whether it moves any frame of the video."""
        _, moved = next(_shuffles(self, shuffle))
        return bool(moved.any())

    def inputs(self, features: VisionFeatures | None = None) -> GroupInputs:
        """What a model scores: the group on its own video, or on other features."""
        return GroupInputs(self.example.prompt, self.packed, features or self.features)


def make_group(
    example: TrainingExample,
    rollout: RolloutGroup,
    features: VisionFeatures,
    builder: PromptBuilder,
    shuffled: RolloutGroup | None = None,
) -> Group:
    decoded = [builder.token_spans(completion) for completion in rollout.completions]
    packed = pack_group(example.prompt.input_ids, [c.to(example.prompt.input_ids.device) for c in rollout.completions])
    texts, spans = zip(*decoded, strict=True)
    compared = () if shuffled is None else tuple(map(builder.decode, shuffled.completions))
    return Group(example, rollout, features, packed, texts, spans, compared)


def group_log_probs(
    model: QwenVL, groups: Sequence[Group], temperature: float, *, with_entropy: bool = False
) -> list[GroupLogProbs]:
    """Log-probs under `model` of groups that share a pack."""
    inputs = [group.inputs() for group in groups]
    return compute_log_probs(model, inputs, temperature=temperature, with_entropy=with_entropy)


@torch.no_grad()
def reference_log_probs(
    policy: QwenVL, reference: QwenVL | None, groups: Sequence[Group], temperature: float
) -> list[Tensor]:
    """Log-probs, (G, C) of each group, under the reference; without one of its own it is the policy without its adapters."""
    model = policy if reference is None else reference
    with adapters_off(model.model) if reference is None else nullcontext():
        found = group_log_probs(model, groups, temperature)
    reshard(model)
    return [of_group.log_probs for of_group in found]


@torch.no_grad()
def shuffled_log_probs(
    policy: QwenVL, groups: Sequence[Group], settings: TemporalRewardSettings, temperature: float
) -> list[Tensor]:
    """Log-probs, (G, C) of each group, when the frames around the true boundaries, or inside the true spans, are shuffled.
    Only temporal patches with a moved frame are encoded again."""
    if settings.permutation == "group":
        inputs = [group.inputs(next(shuffled_videos(policy, group, settings.shuffle))) for group in groups]
        return [found.log_probs for found in compute_log_probs(policy, inputs, temperature=temperature)]
    return [_each_on_its_own_shuffle(policy, group, settings.shuffle, temperature) for group in groups]


def shuffled_videos(policy: QwenVL, group: Group, shuffle: Shuffle) -> Iterator[VisionFeatures]:
    """Features of the group's video with one permutation after the other, without end."""
    frames = group.example.prompt.video.frames
    for permutation, moved in _shuffles(group, shuffle):
        yield policy.reencode_video(group.features, frames[permutation.to(frames.device)], moved)


def _shuffles(group: Group, shuffle: Shuffle) -> Iterator[tuple[Tensor, Tensor]]:
    """One permutation after the other, without end, with the frames that it moves."""
    timestamps, sample = group.example.prompt.video.timestamps, group.example.sample
    boundaries = torch.tensor(find_task(sample.task).boundaries(sample), dtype=torch.float64)
    generator = torch.Generator().manual_seed(group.example.shuffle_seed)
    while True:
        permutation = shuffle(timestamps, boundaries, generator)  # (F,)
        yield permutation, permutation != torch.arange(len(permutation))


def _each_on_its_own_shuffle(policy: QwenVL, group: Group, shuffle: Shuffle, temperature: float) -> Tensor:
    """(G, C)."""
    prompt, device = group.example.prompt, group.packed.input_ids.device
    rows = []
    for completion, features in zip(group.rollout.completions, shuffled_videos(policy, group, shuffle), strict=False):
        alone = GroupInputs(prompt, pack_group(prompt.input_ids, [completion.to(device)]), features)
        rows.append(compute_log_probs(policy, [alone], temperature=temperature)[0].log_probs[0])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
