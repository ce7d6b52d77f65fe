"""Rewards and advantages of one group.

G completions, C tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taro.data.samples import Sample
from taro.prompts import parse_answer
from taro.rl.advantages import constructed_weights, group_advantages
from taro.rl.group import Group
from taro.rl.rewards import best_truth, format_reward, temporal_reward, timestamp_iou_reward
from taro.rl.settings import AdvantageSettings, TemporalRewardSettings
from taro.rl.temporal_gap import gap_token_mask, temporal_gaps
from taro.spans import Span, temporal_iou


@dataclass(frozen=True)
class Answers:
    """What a group's completions answer."""

    spans: tuple[Span | None, ...]  # (G) seconds, None where none can be read
    nearest: tuple[Span, ...]  # (G) the truth that each is compared with, cut to the video
    ious: Tensor  # (G,) with it


def read_answers(group: Group) -> Answers:
    """The answers in what the policy wrote: a constructed path is not its own, and nothing in it earns a reward."""
    sample: Sample = group.example.sample
    truths = [(max(0.0, start), min(sample.duration, end)) for start, end in sample.spans]
    spans = tuple(parse_answer(text) for text in group.policy_texts)
    nearest = tuple(best_truth(span, truths) for span in spans)
    ious = torch.tensor([temporal_iou(span, truth) for span, truth in zip(spans, nearest, strict=True)])
    return Answers(spans, nearest, ious)


def needs_gaps(group: Group, settings: TemporalRewardSettings) -> bool:
    """Whether the temporal gaps of a group are measured: where they can't change a reward they are not, by default. They can
    where one of the group's own completions reaches the gate; then those of the others count, too, in the group's mean. Where
    no frame moves there is nothing to measure: what two passes differ by would be roundings."""
    if not group.moves_frames(settings.radius):
        return False
    if settings.measured == "all":
        return True
    return settings.bonus != 0 and bool((read_answers(group).ious >= settings.iou_gate).any())


@dataclass(frozen=True)
class GroupRewards:
    """What a group's completions are worth."""

    spans: tuple[Span | None, ...]  # (G) parsed answers, seconds
    ious: Tensor  # (G,)
    gaps: Tensor | None  # (G,) nats per token, nan where there is none; None where the group's were not measured
    by_name: dict[str, Tensor]  # (G,) each
    advantages: Tensor  # (G,) those of constructed completions after the mapping

    @property
    def total(self) -> Tensor:
        """(G,) sum of the rewards."""
        return _sum(self.by_name)


def compute_gaps(group: Group, log_probs: Tensor, shuffled_log_probs: Tensor, tokens: str) -> Tensor:
    """Temporal gap of each completion, (G,), over the chosen tokens."""
    masks = [
        gap_token_mask(spans, text, tokens) for spans, text in zip(group.token_spans, group.texts, strict=True)
    ]
    mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)  # (G, C)
    return temporal_gaps(log_probs.detach().cpu(), shuffled_log_probs.cpu(), mask)


def reward_group(
    group: Group, gaps: Tensor | None, temporal: TemporalRewardSettings | None, advantages: AdvantageSettings
) -> GroupRewards:
    """Rewards and advantages of a group. `gaps` (G,), None where they were not measured: then the temporal reward is 0."""
    answers, duration = read_answers(group), group.example.sample.duration
    pairs = zip(answers.spans, answers.nearest, strict=True)
    rewards = {
        "format": torch.tensor([format_reward(text) for text in group.policy_texts]),
        "timestamp_iou": torch.tensor([timestamp_iou_reward(span, truth, duration) for span, truth in pairs]),
    }
    if temporal is not None and gaps is None:
        rewards["temporal"] = torch.zeros_like(answers.ious)
    elif temporal is not None:
        rewards["temporal"] = temporal_reward(
            gaps,
            answers.ious,
            bonus=temporal.bonus,
            iou_gate=temporal.iou_gate,
            margin=temporal.margin,
            threshold=temporal.threshold,
        )
    free = group_advantages(_sum(rewards)[None], scale=advantages.scale)[0]  # (G,)
    mapped = constructed_weights(free[None], mode=advantages.constructed, beta=advantages.beta)[0]
    chosen = torch.where(group.example.constructed, mapped, free)
    return GroupRewards(answers.spans, answers.ious, gaps, rewards, chosen)


def _sum(rewards: dict[str, Tensor]) -> Tensor:
    """(G,) of (G,) each."""
    return torch.stack(list(rewards.values())).sum(0)
