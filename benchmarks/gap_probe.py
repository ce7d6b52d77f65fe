"""Is the temporal gap about the boundaries? The same completion is scored with frames shuffled around the boundaries of its
event, and with as many frames shuffled away from every event's boundaries.

G completions of a prompt, F frames, K boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taro.data.examples import GroundingExample, TrainingExample
from taro.models.log_probs import compute_log_probs
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.prompts import has_format, parse_answer
from taro.rl.group import Group, group_log_probs, make_group
from taro.rl.group_rewards import compute_gaps
from taro.rl.perturbation import FrameShuffle, shuffle_within
from taro.rollout import RolloutEngine, RolloutPrompt, SamplingSettings
from taro.seeds import stable_seed
from taro.spans import temporal_iou

TOKENS = ("response", "think", "timestamps")


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


def shuffle_elsewhere(
    timestamps: Tensor,
    boundaries: Tensor | Sequence[float],
    avoid: Tensor | Sequence[float],
    radius: float,
    generator: torch.Generator,
) -> Tensor | None:
    """A control for `FrameShuffle`: as many frames move, in windows of the same sizes, at places that don't matter.

    The windows of `boundaries` are moved to random places where every frame is farther than `radius` from every
    boundary in `avoid`; windows that overlap move together, others stay disjoint. timestamps (F,), in ascending order,
    -> permutation (F,), int64, or None if no such place was found (with one truth, so at most two separate windows:
    if there is none). Raises ValueError for timestamps out of order and `radius <= 0`.
    """
    shuffle = FrameShuffle(radius)
    times = torch.as_tensor(timestamps, dtype=torch.float64)  # (F,)
    if (times.diff() < 0).any():
        raise ValueError("timestamps must be in ascending order")
    free = torch.ones(len(times), dtype=torch.bool)  # (F,)
    for window in shuffle.windows(times, avoid):
        free[window] = False
    clusters = _overlapping(shuffle.windows(times, boundaries))
    lengths = [max(int(window[-1]) for window in cluster) - int(cluster[0][0]) + 1 for cluster in clusters]
    # A random place for the first run may leave none for the next; leftmost places leave the most.
    starts = _place(lengths, free, generator) or _place(lengths, free)
    if starts is None:
        return None
    moved = [
        window - cluster[0][0] + start for cluster, start in zip(clusters, starts, strict=True) for window in cluster
    ]
    return shuffle_within(moved, len(times), generator)


def _overlapping(windows: list[Tensor]) -> list[list[Tensor]]:
    """The windows that move frames, grouped by overlap, each group in the order of its first frames."""
    clusters: list[list[Tensor]] = []
    end = -1
    for window in sorted((window for window in windows if len(window) > 1), key=lambda window: int(window[0])):
        if int(window[0]) > end:
            clusters.append([])
        clusters[-1].append(window)
        end = max(end, int(window[-1]))
    return clusters


def _place(lengths: list[int], free: Tensor, generator: torch.Generator | None = None) -> list[int] | None:
    """First frames of disjoint free runs of these lengths, the longest placed first: at random, or leftmost without a
    generator."""
    free = free.clone()
    starts = [0] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        candidates = torch.nonzero(free.unfold(0, length, 1).all(dim=1)).flatten()
        if not len(candidates):
            return None
        choice = torch.randint(len(candidates), (), generator=generator) if generator is not None else 0
        starts[index] = int(candidates[choice])
        free[starts[index] : starts[index] + length] = False
    return starts
