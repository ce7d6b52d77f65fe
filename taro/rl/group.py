"""What happens to one group between its rollout and its loss.

G completions, C tokens of the longest, F frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taro.data.examples import TrainingExample
from taro.data.samples import Sample
from taro.models.packing import PackedGroup, pack_group
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.models.scoring import GroupScores, score_group
from taro.prompts import parse_answer
from taro.rl.advantages import constructed_weights, group_advantages
from taro.rl.perturbation import FrameShuffle
from taro.rl.rewards import best_truth, format_reward, temporal_reward, timestamp_iou_reward
from taro.rl.rollout import RolloutGroup
from taro.rl.settings import AdvantageSettings, TemporalRewardSettings
from taro.rl.temporal_gap import gap_token_mask, temporal_gaps
from taro.spans import temporal_iou


@dataclass(frozen=True)
class Group:
    """A prompt with its completions, packed. Made by `make_group`."""

    example: TrainingExample
    rollout: RolloutGroup
    features: VisionFeatures
    packed: PackedGroup
    texts: tuple[str, ...]  # (G)
    token_spans: tuple[list[tuple[int, int]], ...]  # (G) characters of each token


def make_group(example: TrainingExample, rollout: RolloutGroup, features: VisionFeatures, builder: PromptBuilder) -> Group:
    decoded = [builder.token_spans(completion) for completion in rollout.completions]
    packed = pack_group(example.prompt.input_ids, [c.to(example.prompt.input_ids.device) for c in rollout.completions])
    texts, spans = zip(*decoded, strict=True)
    return Group(example, rollout, features, packed, texts, spans)


def score(model: QwenVL, group: Group, temperature: float, features: VisionFeatures | None = None) -> GroupScores:
    """The group's log-probs under `model`, on its own video or on other `features`."""
    return score_group(
        model, group.example.prompt, group.packed, features or group.features, temperature=temperature
    )


@torch.no_grad()
def shuffled_log_probs(
    policy: QwenVL, group: Group, settings: TemporalRewardSettings, temperature: float
) -> Tensor:
    """Log-probs, (G, C), of the completions when the frames around the true boundaries are shuffled. Only temporal patches
    with a moved frame are encoded again."""
    video, sample = group.example.prompt.video, group.example.sample
    boundaries = torch.tensor(sample.spans, dtype=torch.float64).flatten()
    shuffle = FrameShuffle(settings.radius)
    generator = torch.Generator().manual_seed(group.example.shuffle_seed)

    def draw() -> VisionFeatures:
        permutation = shuffle(video.timestamps, boundaries, generator)  # (F,)
        moved = permutation != torch.arange(len(permutation))
        return policy.reencode_video(group.features, video.frames[permutation.to(video.frames.device)], moved)

    if settings.permutation == "group":
        return score(policy, group, temperature, draw()).log_probs
    rows = []
    for completion in group.rollout.completions:
        alone = pack_group(group.example.prompt.input_ids, [completion.to(group.packed.input_ids.device)])
        values = score(policy, replace(group, packed=alone), temperature, draw()).log_probs[0]
        rows.append(torch.nn.functional.pad(values, (0, group.packed.response_mask.shape[1] - len(completion))))
    return torch.stack(rows)


@dataclass(frozen=True)
class Judgement:
    """What a group's completions are worth."""

    spans: tuple[tuple[float, float] | None, ...]  # (G) parsed answers, seconds
    ious: Tensor  # (G,)
    gaps: Tensor  # (G,) nats per token, nan where there is none
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
    """Rewards and advantages of a group. `gaps` (G,) where the temporal reward is on."""
    sample: Sample = group.example.sample
    truths = [(max(0.0, start), min(sample.duration, end)) for start, end in sample.spans]
    spans = tuple(parse_answer(text) for text in group.texts)
    nearest = [best_truth(span, truths) for span in spans]
    ious = torch.tensor([temporal_iou(span, truth) for span, truth in zip(spans, nearest, strict=True)])
    rewards = {
        "format": torch.tensor([format_reward(text) for text in group.texts]),
        "timestamp_iou": torch.tensor(
            [timestamp_iou_reward(span, truth, sample.duration) for span, truth in zip(spans, nearest, strict=True)]
        ),
    }
    if temporal is not None:
        rewards["temporal"] = temporal_reward(
            gaps,
            ious,
            bonus=temporal.bonus,
            iou_gate=temporal.iou_gate,
            margin=temporal.margin,
            threshold=temporal.threshold,
        )
    free = group_advantages(_sum(rewards)[None], scale=advantages.scale)[0]  # (G,)
    mapped = constructed_weights(free[None], mode=advantages.constructed, beta=advantages.beta)[0]
    weights = torch.where(group.example.constructed, mapped, free)
    return Judgement(spans, ious, torch.full_like(ious, float("nan")) if gaps is None else gaps, rewards, weights)


def _sum(rewards: dict[str, Tensor]) -> Tensor:
    """(G,) of (G,) each."""
    return torch.stack(list(rewards.values())).sum(0)
