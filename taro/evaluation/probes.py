"""Probes: the same questions with the video changed. Where answers stay as good, they do not come from what was changed.

    python eval.py --dataset Synthetic --model DIR --output outputs/eval/whole
    python eval.py --dataset Synthetic --model DIR --output outputs/eval/reversed --probe reversed
    python -m taro.evaluation.compare outputs/eval/whole outputs/eval/reversed

Frames change, their times don't, so prompts have the same tokens. F frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from taro.data.dataset import Change
from taro.data.samples import Sample
from taro.seeds import stable_seed
from taro.video.load import Video
from taro.video.perturbation import FrameShuffle, SpanShuffle, shuffle_elsewhere, shuffle_within

GREY = 128
RADIUS = 1.5  # seconds around a boundary

Probe = Literal[
    "blind", "one_frame", "reversed", "shuffled", "shuffled_at_boundaries", "shuffled_elsewhere", "shuffled_inside"
]


def blind(video: Video, sample: Sample) -> Video:
    """Grey pictures."""
    return replace(video, frames=torch.full_like(video.frames, GREY))


def one_frame(video: Video, sample: Sample) -> Video:
    """The frame in the middle, all the time."""
    middle = len(video.frames) // 2
    return replace(video, frames=video.frames[middle : middle + 1].expand_as(video.frames).contiguous())


def reversed_frames(video: Video, sample: Sample) -> Video:
    """From the last frame to the first."""
    return replace(video, frames=video.frames.flip(0))


def shuffled(video: Video, sample: Sample) -> Video:
    """All frames in a random order."""
    return _permuted(video, shuffle_within([torch.arange(len(video.frames))], len(video.frames), _generator(sample)))


def shuffled_at_boundaries(video: Video, sample: Sample) -> Video:
    """Frames at most RADIUS from a true boundary, among themselves."""
    return _permuted(video, FrameShuffle(RADIUS)(video.timestamps, _boundaries(sample), _generator(sample)))


def shuffled_elsewhere(video: Video, sample: Sample) -> Video:
    """As many frames as `shuffled_at_boundaries` moves, farther than RADIUS from the true boundaries. A video without such a
    place stays as it is."""
    boundaries = _boundaries(sample)
    permutation = shuffle_elsewhere(video.timestamps, boundaries, boundaries, RADIUS, _generator(sample))
    return video if permutation is None else _permuted(video, permutation)


def shuffled_inside(video: Video, sample: Sample) -> Video:
    """The frames of the true spans, among themselves: what is seen stays, its order does not."""
    return _permuted(video, SpanShuffle()(video.timestamps, _boundaries(sample), _generator(sample)))


_CHANGES = (blind, one_frame, reversed_frames, shuffled, shuffled_at_boundaries, shuffled_elsewhere, shuffled_inside)
PROBES: dict[Probe, Change] = dict(zip(get_args(Probe), _CHANGES, strict=True))


def _permuted(video: Video, permutation: Tensor) -> Video:
    return replace(video, frames=video.frames[permutation])


def _boundaries(sample: Sample) -> list[float]:
    return [time for span in sample.spans for time in span]


def _generator(sample: Sample) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed("probe", sample.id))
