"""The numbers of a report. `N` samples, `K` metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taro.data.samples import Sample
from taro.evaluation.report import Summary, group_samples, score_matrix, summarise, task_metrics
from taro.evaluation.scores import METRICS
from taro.view.evaluated import Evaluated

THRESHOLDS = np.linspace(0, 1, 21)  # of the IoU
BINS = 10  # of the histogram
POSITIONS = 5  # parts of the video that a moment's middle may be in
MOST_GROUPS = 12  # of a breakdown that is drawn
SHOWN = "R1@0.5"  # of groups


@dataclass(frozen=True)
class Statistics:
    """What one evaluation comes to."""

    summary: Summary
    ious: np.ndarray  # (N,) float64
    histogram: tuple[int, ...]  # samples whose IoU is 0, then in each tenth above, the upper end in it
    recall: tuple[float, ...]  # share of samples that reach each of THRESHOLDS
    groups: dict[str, dict[str, Summary]]  # by what, then by its value
    tasks: dict[str, dict[str, float]]  # by task, METRICS where there are several, and its own metrics


def measure(evaluated: Evaluated, strict: bool) -> Statistics:
    """
    Args:
        evaluated: with one prediction or more.
        strict: R1 counts IoU > level.
    """
    scores = score_matrix(evaluated.predictions, strict)  # (N, K)
    ious = scores[:, METRICS.index("mIoU")]
    groups = {**_positions(evaluated.samples), **group_samples(evaluated.samples, evaluated.breakdowns)}
    own = task_metrics(evaluated.predictions)
    by_task = {name: summarise(scores[places], resamples=1).metrics for name, places in groups.get("task", {}).items()}
    return Statistics(
        tasks={name: by_task.get(name, {}) | own.get(name, {}) for name in {**by_task, **own}},
        summary=summarise(scores),
        ious=ious,
        histogram=count_ious(ious),
        recall=tuple(float((ious > level if strict else ious >= level).mean()) for level in THRESHOLDS),
        groups={
            name: {value: summarise(scores[places]) for value, places in values.items()}
            for name, values in groups.items()
            if set(values) != {"unknown"} and len(values) <= MOST_GROUPS
        },
    )


def count_ious(ious: np.ndarray) -> tuple[int, ...]:
    """How many are 0, and in each tenth above."""
    above = np.clip(np.ceil(BINS * ious - 1e-9).astype(int), 0, BINS)
    return tuple(np.bincount(above, minlength=BINS + 1).tolist())


def _positions(samples: Sequence[Sample]) -> dict[str, dict[str, list[int]]]:
    """Places of the samples by where in its video the middle of the moment is."""
    groups: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        if sample.spans and not math.isnan(sample.duration):
            middle = sum(start + end for start, end in sample.spans) / (2 * len(sample.spans)) / sample.duration
            part = min(POSITIONS - 1, max(0, int(POSITIONS * middle)))
            groups.setdefault(f"{100 * part // POSITIONS}-{100 * (part + 1) // POSITIONS} %", []).append(place)
    return {"position": dict(sorted(groups.items(), key=lambda group: int(group[0].partition("-")[0])))} if groups else {}
