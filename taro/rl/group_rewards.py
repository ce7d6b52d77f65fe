"""Rewards and advantages of one group.

G completions, C tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taro.rl.advantages import (
    constructed_weights,
    dgrpo_weights,
    group_advantages,
    leave_one_out_advantages,
    separate_advantages,
    weighted_sum,
)
from taro.rl.group import Group
from taro.rl.rewards import Completion, temporal_reward
from taro.rl.rewards.choose import Rewards
from taro.rl.rewards.parts import has_format
from taro.rl.settings import AdvantageSettings, TemporalRewardSettings
from taro.rl.temporal_gap import gap_token_mask, temporal_gaps
from taro.spans import Span


def read_completions(group: Group, gaps: Tensor | None = None) -> list[Completion]:
    """(G) what the policy wrote: a constructed path is not its own, and nothing in it earns a reward. `gaps` (G,)."""
    measured = [None] * len(group.texts) if gaps is None else gaps.tolist()
    rows = zip(group.policy_texts, group.rollout.completions, measured, group.example.constructed.tolist(), strict=True)
    return [Completion(text, group.example.sample, tuple(ids.tolist()), gap, built) for text, ids, gap, built in rows]


def read_shuffled(group: Group) -> list[Completion]:
    """What the policy wrote about the video with its frames in a random order, to compare with."""
    return [Completion(text, group.example.sample, shuffled=True) for text in group.shuffled_texts]


def needs_gaps(group: Group, settings: TemporalRewardSettings) -> bool:
    """Whether the temporal gaps of a group are measured: where they can't change a reward they are not, by default. They can
    where one of the group's own completions reaches the gate; then those of the others count, too, in the group's mean. Where
    no frame moves there is nothing to measure: what two passes differ by would be roundings."""
    if not group.moves_frames(settings.shuffle):
        return False
    if settings.measured == "all":
        return True
    return settings.bonus != 0 and bool((compute_ious(read_completions(group)) >= settings.iou_gate).any())


@dataclass(frozen=True)
class GroupRewards:
    """What a group's completions are worth."""

    spans: tuple[Span | None, ...]  # (G) parsed answers, seconds
    ious: Tensor  # (G,)
    gaps: Tensor | None  # (G,) nats per token, nan where there is none; None where the group's were not measured
    by_name: dict[str, Tensor]  # (G,) each, before its weight
    weights: dict[str, float]  # of each
    advantages: Tensor  # (G,) those of constructed completions after the mapping

    @property
    def total(self) -> Tensor:
        """(G,) weighted sum of the rewards."""
        return weighted_sum(self.by_name, self.weights)


def earn(group: Group, rewards: Rewards) -> Group:
    """The group with what its texts earn. Raises RewardError."""
    return replace(group, earned=rewards([*read_completions(group), *read_shuffled(group)]))


def earned_total(group: Group) -> Tensor:
    """(G,) weighted sum of what its texts earn."""
    values, weights = group.earned
    return weighted_sum({name: torch.tensor(numbers) for name, numbers in values.items()}, weights)


def compute_gaps(group: Group, log_probs: Tensor, shuffled_log_probs: Tensor, tokens: str) -> Tensor:
    """Temporal gap of each completion, (G,), over the chosen tokens."""
    masks = [
        gap_token_mask(spans, text, tokens) for spans, text in zip(group.token_spans, group.texts, strict=True)
    ]
    mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)  # (G, C)
    return temporal_gaps(log_probs.detach().cpu(), shuffled_log_probs.cpu(), mask)


def reward_group(
    group: Group,
    gaps: Tensor | None,
    temporal: TemporalRewardSettings | None,
    advantages: AdvantageSettings,
    rewards: Rewards = Rewards(),
    of_step: Callable[[Tensor, Sequence[str]], Tensor] | None = None,
) -> GroupRewards:
    """Rewards and advantages of a group. `gaps` (G,), None where they were not measured: then the temporal reward is 0.
    `of_step`: makes advantages, (groups, G), of rewards and tasks, where they are relative to all groups of the step.

    Raises RewardError for a reward that can't be computed."""
    completions = read_completions(group, gaps)
    ious = compute_ious(completions)
    numbers, weights = group.earned or rewards([*completions, *read_shuffled(group)])
    by_name = {name: torch.tensor(values) for name, values in numbers.items()}
    if temporal is not None and gaps is None:
        by_name["temporal"] = torch.zeros_like(ious)
    elif temporal is not None:
        by_name["temporal"] = temporal_reward(
            gaps,
            ious,
            bonus=temporal.bonus,
            iou_gate=temporal.iou_gate,
            margin=temporal.margin,
            threshold=temporal.threshold,
        )
    weights = {name: weights.get(name, 1.0) for name in by_name}
    if advantages.of_step:
        free = of_step(weighted_sum(by_name, weights)[None], [group.example.sample.task])[0]  # (G,)
    else:
        free = _advantages(advantages.scale, by_name, weights, completions)  # (G,)
    mapped = constructed_weights(free[None], mode=advantages.constructed, beta=advantages.beta)[0]
    chosen = torch.where(group.example.constructed, mapped, free)
    spans = tuple(completion.span for completion in completions)
    return GroupRewards(spans, ious, gaps, by_name, weights, chosen)


def _advantages(
    scale: str, by_name: dict[str, Tensor], weights: dict[str, float], completions: Sequence[Completion]
) -> Tensor:
    """(G,), as `AdvantageSettings.scale` says."""
    total = weighted_sum(by_name, weights)[None]  # (1, G)
    if scale == "separate":
        return separate_advantages({name: values[None] for name, values in by_name.items()}, weights)[0]
    if scale == "leave_one_out":
        return leave_one_out_advantages(total)[0]
    if scale == "dgrpo":
        right = torch.tensor([[has_format(completion) for completion in completions]]) + compute_ious(completions)
        return (group_advantages(total) * dgrpo_weights(right)[:, None])[0]
    if scale == "dgrpo_released":
        return (group_advantages(total) * dgrpo_weights(total)[:, None])[0]
    return group_advantages(total, scale=scale)[0]


def compute_ious(completions: Sequence[Completion]) -> Tensor:
    """(G,) of each answer with the nearest truth."""
    return torch.tensor([completion.iou for completion in completions])
