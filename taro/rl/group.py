"""What happens to one group between its rollout and its loss.

G completions, C tokens of the longest, F frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taro.data.examples import TrainingExample
from taro.data.samples import Sample
from taro.models.log_probs import GroupInputs, GroupScores, score_groups
from taro.models.packing import PackedGroup, pack_group
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.prompts import parse_answer, policy_part
from taro.rl.advantages import constructed_weights, group_advantages
from taro.rl.perturbation import FrameShuffle
from taro.rl.rewards import best_truth, format_reward, temporal_reward, timestamp_iou_reward
from taro.rl.settings import AdvantageSettings, TemporalRewardSettings
from taro.rl.temporal_gap import gap_token_mask, temporal_gaps
from taro.rollout import RolloutGroup
from taro.spans import Span, temporal_iou


@dataclass(frozen=True)
class Group:
    """A prompt with its completions, packed. Made by `make_group`."""

    example: TrainingExample
    rollout: RolloutGroup
    features: VisionFeatures
    packed: PackedGroup
    texts: tuple[str, ...]  # (G)
    token_spans: tuple[list[tuple[int, int]], ...]  # (G) characters of each token

    @property
    def engine_log_probs(self) -> Tensor:
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
        """(G) what is judged: the texts, those of constructed completions from where the policy goes on."""
        starts = [
            0 if not prefix else spans[len(prefix)][0] if len(spans) > len(prefix) else len(text)
            for prefix, spans, text in zip(self.example.prefixes, self.token_spans, self.texts, strict=True)
        ]
        return tuple(policy_part(text, start) for text, start in zip(self.texts, starts, strict=True))

    def inputs(self, features: VisionFeatures | None = None) -> GroupInputs:
        """What a model scores: the group on its own video, or on other features."""
        return GroupInputs(self.example.prompt, self.packed, features or self.features)


def make_group(example: TrainingExample, rollout: RolloutGroup, features: VisionFeatures, builder: PromptBuilder) -> Group:
    decoded = [builder.token_spans(completion) for completion in rollout.completions]
    packed = pack_group(example.prompt.input_ids, [c.to(example.prompt.input_ids.device) for c in rollout.completions])
    texts, spans = zip(*decoded, strict=True)
    return Group(example, rollout, features, packed, texts, spans)


def score(model: QwenVL, groups: Sequence[Group], temperature: float) -> list[GroupScores]:
    """Scores of groups that share a pack under `model`."""
    return score_groups(model, [group.inputs() for group in groups], temperature=temperature)


@torch.no_grad()
def shuffled_log_probs(
    policy: QwenVL, groups: Sequence[Group], settings: TemporalRewardSettings, temperature: float
) -> list[Tensor]:
    """Log-probs, (G, C) of each group, when the frames around the true boundaries are shuffled. Only temporal patches with a
    moved frame are encoded again."""
    if settings.permutation == "group":
        inputs = [group.inputs(next(shuffled_videos(policy, group, settings.radius))) for group in groups]
        return [scores.log_probs for scores in score_groups(policy, inputs, temperature=temperature)]
    return [_each_on_its_own_shuffle(policy, group, settings.radius, temperature) for group in groups]


def shuffled_videos(policy: QwenVL, group: Group, radius: float) -> Iterator[VisionFeatures]:
    """Features of the group's video with one permutation after the other, without end."""
    frames = group.example.prompt.video.frames
    for permutation, moved in _shuffles(group, radius):
        yield policy.reencode_video(group.features, frames[permutation.to(frames.device)], moved)


def _shuffles(group: Group, radius: float) -> Iterator[tuple[Tensor, Tensor]]:
    """One permutation after the other, without end, with the frames that it moves."""
    shuffle, timestamps = FrameShuffle(radius), group.example.prompt.video.timestamps
    boundaries = torch.tensor(group.example.sample.spans, dtype=torch.float64).flatten()
    generator = torch.Generator().manual_seed(group.example.shuffle_seed)
    while True:
        permutation = shuffle(timestamps, boundaries, generator)  # (F,)
        yield permutation, permutation != torch.arange(len(permutation))


def _each_on_its_own_shuffle(policy: QwenVL, group: Group, radius: float, temperature: float) -> Tensor:
    """(G, C)."""
    prompt, device = group.example.prompt, group.packed.input_ids.device
    rows = []
    for completion, features in zip(group.rollout.completions, shuffled_videos(policy, group, radius), strict=False):
        alone = GroupInputs(prompt, pack_group(prompt.input_ids, [completion.to(device)]), features)
        rows.append(score_groups(policy, [alone], temperature=temperature)[0].log_probs[0])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@dataclass(frozen=True)
class Answers:
    """What a group's completions answer."""

    spans: tuple[Span | None, ...]  # (G) seconds, None where none can be read
    nearest: tuple[Span, ...]  # (G) the truth that each is compared with, cut to the video
    ious: Tensor  # (G,) with it


def read_answers(group: Group) -> Answers:
    """Of what the policy wrote: a constructed path is not its own, and nothing in it earns a reward."""
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
    _, moved = next(_shuffles(group, settings.radius))
    if not moved.any():
        return False
    if settings.measured == "all":
        return True
    return settings.bonus != 0 and bool((read_answers(group).ious >= settings.iou_gate).any())


@dataclass(frozen=True)
class Judgement:
    """What a group's completions are worth."""

    spans: tuple[Span | None, ...]  # (G) parsed answers, seconds
    ious: Tensor  # (G,)
    gaps: Tensor | None  # (G,) nats per token, nan where there is none; None where the group's were not measured
    rewards: dict[str, Tensor]  # by name, (G,) each
    weights: Tensor  # (G,) advantages, of constructed completions after the mapping

    @property
    def total(self) -> Tensor:
        """(G,) sum of the rewards."""
        return _sum(self.rewards)


def compute_gaps(group: Group, log_probs: Tensor, shuffled: Tensor, tokens: str) -> Tensor:
    """Temporal gap of each completion, (G,), over the chosen tokens."""
    masks = [
        gap_token_mask(spans, text, tokens) for spans, text in zip(group.token_spans, group.texts, strict=True)
    ]
    mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)  # (G, C)
    return temporal_gaps(log_probs.detach().cpu(), shuffled.cpu(), mask)


def judge(
    group: Group, gaps: Tensor | None, temporal: TemporalRewardSettings | None, advantages: AdvantageSettings
) -> Judgement:
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
    weights = torch.where(group.example.constructed, mapped, free)
    return Judgement(answers.spans, answers.ious, gaps, rewards, weights)


def _sum(rewards: dict[str, Tensor]) -> Tensor:
    """(G,) of (G,) each."""
    return torch.stack(list(rewards.values())).sum(0)


@dataclass(frozen=True)
class JudgedGroup:
    """All that an update needs of a group."""

    group: Group
    judgement: Judgement
    old_log_probs: Tensor  # (G, C) under the policy that made the rollout
    ref_log_probs: Tensor | None  # (G, C), None without a KL term
