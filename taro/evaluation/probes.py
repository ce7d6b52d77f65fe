"""Probes: the same questions with the video changed. Where answers stay as good, they do not come from what was changed.

    python eval.py --dataset Synthetic --model DIR --output outputs/eval/whole
    python eval.py --dataset Synthetic --model DIR --output outputs/eval/reversed --probe reversed
    python -m taro.evaluation.compare outputs/eval/whole outputs/eval/reversed

Several at once, `--probe blind,reversed`, are answered beside the unchanged videos, and stand in one table
(`taro.evaluation.probe_table`).

Frames change, their times don't, so prompts have the same tokens; with `shifted_labels` it is the other way round. F frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from taro.command_line import did_you_mean
from taro.data.dataset import Change
from taro.data.samples import Sample
from taro.evaluation.predictions import EvaluationError
from taro.models.families import FAMILIES, Family
from taro.seeds import stable_seed
from taro.video.load import Video
from taro.video.perturbation import FrameShuffle, SpanShuffle, shuffle_elsewhere, shuffle_within

GREY = 128
RADIUS = 1.5  # seconds around a boundary
SHIFT = 5.0  # seconds
SHIFTED_LABELS = "shifted_labels"

Probe = Literal[
    "blind",
    "one_frame",
    "reversed",
    "shuffled",
    "shuffled_at_boundaries",
    "shuffled_elsewhere",
    "shuffled_inside",
    "shifted_labels",
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


def shifted_labels(video: Video, sample: Sample) -> Video:
    """The same frames, all of them named SHIFT later: an answer that is read off the labels is SHIFT later, too."""
    return replace(video, timestamps=video.timestamps + SHIFT)


_CHANGES = (
    blind,
    one_frame,
    reversed_frames,
    shuffled,
    shuffled_at_boundaries,
    shuffled_elsewhere,
    shuffled_inside,
    shifted_labels,
)
PROBES: dict[Probe, Change] = dict(zip(get_args(Probe), _CHANGES, strict=True))


def read_probes(names: str | None) -> tuple[Probe, ...]:
    """Those of `--probe`, each once, in the order that they are named in.

    Raises:
        EvaluationError: there is no such probe, or none is named.
    """
    if names is None:
        return ()
    probes = tuple(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))
    if not probes:
        raise EvaluationError(f"--probe {names!r}: names none; allowed: {', '.join(PROBES)}, with commas between several")
    unknown = [probe for probe in probes if probe not in PROBES]
    if unknown:
        guess = did_you_mean(unknown[0], PROBES)
        raise EvaluationError(f"--probe {names}: there is no {', '.join(unknown)}{guess}; allowed: {', '.join(PROBES)}")
    return probes


def find_change(probe: Probe | None, family: Family) -> Change | None:
    """The change that a probe makes to the videos that a model of this family is shown.

    Raises:
        EvaluationError: it would change nothing that the model sees.
    """
    if probe == SHIFTED_LABELS and not family.labels_times:
        with_labels = [other.model_type for other in FAMILIES.values() if other.labels_times]
        raise EvaluationError(
            f"--probe {probe}: a {family.model_type} model is told no times that could be shifted, its prompt has frames "
            f"alone, whose distance in time is in their positions; allowed for {', '.join(with_labels)}"
        )
    return probe and PROBES[probe]


def _permuted(video: Video, permutation: Tensor) -> Video:
    return replace(video, frames=video.frames[permutation])


def _boundaries(sample: Sample) -> list[float]:
    return [time for span in sample.spans for time in span]


def _generator(sample: Sample) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed("probe", sample.id))
