"""What an evaluation found: metrics with their intervals, failures by kind, and the same for groups of samples.

`N` samples, `K` metrics.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np

from taro.data.samples import Sample
from taro.evaluation.bootstrap import COVERAGE, RESAMPLES, SEED, percentile_intervals, resample_means
from taro.evaluation.predictions import Prediction, count_failures, list_failures
from taro.evaluation.scores import METRICS, score_iou
from taro.messages import print_table
from taro.tasks import find_task

VIDEO_LENGTHS = (0, 30, 60, 120, 300)  # seconds: from each to the next, the last one open
MOMENT_LENGTHS = (0, 5, 10, 30, 60)
OF_TASKS = ("mIoU", "R1@0.5")  # shown of each


@dataclass(frozen=True)
class Summary:
    """The metrics of some samples, as shares in [0, 1]."""

    samples: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # 95 %, bootstrap


@dataclass(frozen=True)
class Report(Summary):
    """The metrics of all samples. Filled by `make_report`, read by `eval.py` and whoever reads `metrics.json`."""

    failed: int  # samples that the model was not asked
    failures: dict[str, int]  # by kind, taro.evaluation.predictions.FAILURES
    seconds: float  # of generation
    strict: bool  # R1 counts IoU > level
    bootstrap: dict[str, float]
    breakdowns: dict[str, dict[str, Summary]]  # by what, then by its value
    official: dict[str, float]  # of the benchmark's own scorer, in its own units
    tasks: dict[str, dict[str, float]]  # their own metrics, by task, of those that have some

    def to_json(self) -> dict[str, Any]:
        """`metrics.json`: as it is, with null for scores that are not defined, and with tasks where they have own metrics."""
        row = asdict(self) | {"official": _without_nan(self.official)}
        tasks = {name: _without_nan(metrics) for name, metrics in row.pop("tasks").items()}
        return row | ({"tasks": tasks} if tasks else {})


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(score) else score for name, score in scores.items()}


def make_report(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    breakdowns: Sequence[str] = (),
    strict: bool = False,
    resamples: int = RESAMPLES,
    official: dict[str, float] | None = None,
) -> Report:
    """
    Args:
        samples: N of them.
        predictions: theirs, in the same order.
        breakdowns: keys of the samples' rows by whose values the metrics are given, too.
        strict: R1 counts IoU > level and not >=.
        resamples: of the bootstrap.
        official: scores of the benchmark's own scorer.
    """
    scores = score_matrix(predictions, strict)
    return Report(
        **vars(summarise(scores, resamples)),
        failed=sum(prediction.completion is None for prediction in predictions),
        failures=count_failures(predictions),
        seconds=math.fsum(prediction.seconds for prediction in predictions),
        strict=strict,
        bootstrap={"resamples": resamples, "seed": SEED, "coverage": COVERAGE},
        breakdowns={
            name: {value: summarise(scores[places], resamples) for value, places in groups.items()}
            for name, groups in group_samples(samples, breakdowns).items()
        },
        official=official or {},
        tasks=task_metrics(predictions),
    )


def task_metrics(predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """The own metrics of each task that has some; a task's IoU is in METRICS."""
    by_task: dict[str, list[dict[str, float]]] = defaultdict(list)
    for prediction in predictions:
        if scores := prediction.scores:
            by_task[prediction.task].append(scores)
    return {
        name: find_task(name).metrics({key: math.fsum(one[key] for one in scores) for key in scores[0]}, len(scores))
        for name, scores in by_task.items()
    }


def score_matrix(predictions: Sequence[Prediction], strict: bool = False) -> np.ndarray:
    """(N, K) float64: what each answer adds to each of METRICS."""
    scores = [score_iou(row.iou, row.readable, row.completion, strict) for row in predictions]
    return np.array(scores).reshape(-1, len(METRICS))


def summarise(scores: np.ndarray, resamples: int = RESAMPLES) -> Summary:
    """Means of the columns of (N, K), and their intervals."""
    if not len(scores):  # of a shard that other ones have not begun beside
        return Summary(0, dict.fromkeys(METRICS, math.nan), dict.fromkeys(METRICS, (math.nan, math.nan)))
    intervals = percentile_intervals(resample_means(scores, resamples))
    return Summary(
        samples=len(scores),
        metrics=dict(zip(METRICS, scores.mean(axis=0).tolist(), strict=True)),
        intervals={name: tuple(ends) for name, ends in zip(METRICS, intervals.tolist(), strict=True)},
    )


def group_samples(samples: Sequence[Sample], keys: Sequence[str] = ()) -> dict[str, dict[str, list[int]]]:
    """Places of the samples by the values of each key that any row has, by the length of video and moment, and by task where
    there are several."""
    labels = {key: [sample.extra.get(key) for sample in samples] for key in keys}
    labels["video_length"] = [_bin(sample.duration, VIDEO_LENGTHS) for sample in samples]
    labels["moment_length"] = [_moment_length(sample) for sample in samples]
    if len({sample.task for sample in samples}) > 1:
        labels["task"] = [sample.task for sample in samples]
    groups: dict[str, dict[str, list[int]]] = {}
    for name, values in labels.items():
        places = defaultdict(list)
        for place, value in enumerate(values):
            if value is not None:
                places[str(value)].append(place)
        if places:
            groups[name] = {label: places[label] for label in sorted(places, key=_natural_order)}
    return groups


def print_report(report: Report, predictions: Sequence[Prediction], asked: int) -> None:
    """The metrics as a table, and what failed or gave no answer, with its reason."""
    rows = []
    for name, value in report.metrics.items():
        low, high = report.intervals[name]
        label = f"{name} (IoU > {name[3:]})" if report.strict and name.startswith("R1@") else name
        rows.append((label, f"{value:.3f}", f"{low:.3f} to {high:.3f}"))
    rows += [(f"official {name}", f"{value:.2f}", "") for name, value in report.official.items()]
    by_task = list(_task_rows(report))
    if not by_task:
        rows += [(name, f"{value:.3f}", "") for own in report.tasks.values() for name, value in own.items()]
    print_table(["metric", "value", f"{COVERAGE:.0%} interval"], rows)
    if by_task:
        print_table(["task", "samples", *OF_TASKS, "its own"], by_task)
    print(f"{report.samples} samples, {report.failed} of them could not be asked")
    if report.samples < asked:
        print(f"so far: {asked} were asked for, other shards have the rest")
    for line in list_failures(predictions):
        print(line)
    for failure, count in report.failures.items():
        if count:
            print(f"{failure}: {count}")


def _task_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """Of a table: each task, its samples, some of METRICS and its own."""
    for name, summary in report.breakdowns.get("task", {}).items():
        own = ", ".join(f"{metric} {value:.3f}" for metric, value in report.tasks.get(name, {}).items())
        yield name, str(summary.samples), *(f"{summary.metrics[metric]:.3f}" for metric in OF_TASKS), own


def _moment_length(sample: Sample) -> str | None:
    """None where the event doesn't occur."""
    return _bin(fmean(end - start for start, end in sample.spans), MOMENT_LENGTHS) if sample.spans else None


def _bin(length: float, limits: Sequence[int]) -> str:
    if math.isnan(length):
        return "unknown"
    for low, high in pairwise(limits):
        if length < high:
            return f"{low}-{high} s"
    return f"{limits[-1]}+ s"


def _natural_order(label: str) -> tuple[float, str]:
    """Ranges by where they start, names by the alphabet."""
    return float(re.match(r"\d*", label)[0] or math.inf), label
