"""Is the temporal gap about the boundaries? The same completion is scored with frames shuffled around the boundaries of its
event, and with as many frames shuffled away from every event's boundaries.

G completions of a prompt, F frames, K boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from taro.data.examples import GroundingExample, TrainingExample
from taro.models.log_probs import compute_log_probs
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.prompts import has_format, parse_answer
from taro.rl.group import Group, group_log_probs, make_group
from taro.rl.group_rewards import compute_gaps
from taro.rl.temporal_gap import GapTokens
from taro.rollout import RolloutEngine, RolloutPrompt, SamplingSettings
from taro.seeds import stable_seed
from taro.spans import temporal_iou
from taro.video.perturbation import FrameShuffle, shuffle_elsewhere

TOKENS = get_args(GapTokens)


@dataclass(frozen=True)
class GapPair:
    """Gaps of one correct completion, nats per token."""

    sample: str  # its id: completions of one sample share a video and a permutation
    radius: float  # seconds
    tokens: str
    boundary: float
    elsewhere: float


@torch.no_grad()
def correct_groups(
    policy: QwenVL,
    builder: PromptBuilder,
    engine: RolloutEngine,
    examples: Sequence[GroundingExample],
    *,
    group_size: int = 4,
    least_iou: float = 0.5,
    max_tokens: int = 160,
    seed: int = 0,
    opening: str = "",
) -> list[Group]:
    """Sampled completions (temperature 1) with the right format and an IoU of at least `least_iou`, in groups.

    Args:
        opening: what they all start with, `{query}` filled in; it is not counted. It leads a model that would else not reason
            with times to do so.
    """
    requests = []
    for example in examples:
        seeds = tuple(stable_seed("probe", seed, example.sample.id, g) for g in range(group_size))
        features = policy.encode_video(example.prompt.video.frames)
        prefix = tuple(builder.encode(opening.replace("{query}", example.sample.query)))
        requests.append(RolloutPrompt(example.prompt, (prefix,) * group_size, seeds, features))
    groups = []
    for example, request, rollout in zip(
        examples, requests, engine.generate(requests, SamplingSettings(max_tokens=max_tokens)), strict=True
    ):
        texts = [builder.decode(completion) for completion in rollout.completions]
        truth = example.sample.spans[0]
        right = [g for g, t in enumerate(texts) if has_format(t) and temporal_iou(parse_answer(t), truth) >= least_iou]
        if right:
            kept = replace(
                rollout,
                completions=tuple(rollout.completions[g] for g in right),
                log_probs=tuple(rollout.log_probs[g] for g in right),
                finished=tuple(rollout.finished[g] for g in right),
            )
            training = TrainingExample(**vars(example), prefixes=request.prefixes[: len(right)])
            groups.append(make_group(training, kept, request.features, builder))
    return groups


@torch.no_grad()
def probe_gaps(policy: QwenVL, groups: Sequence[Group], radius: float, seed: int = 0) -> list[GapPair]:
    """Gaps at the boundaries and elsewhere of every completion, for each set of tokens. Groups whose video has no place
    elsewhere for as many frames are left out."""
    pairs = []
    for group in groups:
        sample, video = group.example.sample, group.example.prompt.video
        boundaries = torch.tensor(sample.spans[0], dtype=torch.float64)
        every = torch.tensor([[c.start, c.end] for c in sample.captions], dtype=torch.float64).flatten()
        generator = torch.Generator().manual_seed(stable_seed("probe shuffle", seed, sample.id))
        near = FrameShuffle(radius)(video.timestamps, boundaries, generator)
        away = shuffle_elsewhere(video.timestamps, boundaries, every, radius, generator)
        if away is None:
            continue
        original = group_log_probs(policy, [group], 1.0)[0].log_probs
        log_probs = [_on_permuted(policy, group, permutation) for permutation in (near, away)]
        for tokens in TOKENS:
            at, off = (compute_gaps(group, original, values, tokens) for values in log_probs)
            pairs += [
                GapPair(sample.id, radius, tokens, float(a), float(b))
                for a, b in zip(at, off, strict=True)
                if a.isfinite() and b.isfinite()
            ]
    return pairs


def _on_permuted(policy: QwenVL, group: Group, permutation: Tensor) -> Tensor:
    """Log-probs (G, C) with the video's frames in this order, (F,)."""
    moved = permutation != torch.arange(len(permutation))
    frames = group.example.prompt.video.frames[permutation]
    return compute_log_probs(policy, [group.inputs(policy.reencode_video(group.features, frames, moved))])[0].log_probs
