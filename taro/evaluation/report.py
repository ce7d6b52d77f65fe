"""What an evaluation found: metrics with their intervals, failures by kind, and the same for groups of samples.

`N` samples, `K` metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from taro.data.samples import Sample
from taro.evaluation.bootstrap import COVERAGE, RESAMPLES, SEED, percentile_intervals, resample_means
from taro.evaluation.predictions import Prediction, count_failures, list_failures
from taro.evaluation.scores import METRICS, score_answer
from taro.messages import print_table

VIDEO_LENGTHS = (0, 30, 60, 120, 300)  # seconds: from each to the next, the last one open
MOMENT_LENGTHS = (0, 5, 10, 30, 60)


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
    official: dict[str, float] = field(default_factory=dict)  # of the benchmark's own scorer, in its own units

    def to_json(self) -> dict[str, Any]:
        """`metrics.json`: as it is, with null for values that are not defined."""
        return _without_nan(asdict(self))


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
    failures = count_failures(predictions)
    return Report(
        **vars(summarise(scores, resamples)),
        failed=sum(prediction.completion is None for prediction in predictions),
        failures=failures,
        seconds=math.fsum(prediction.seconds for prediction in predictions),
        strict=strict,
        bootstrap={"resamples": resamples, "seed": SEED, "coverage": COVERAGE},
        breakdowns={
            name: {value: summarise(scores[places], resamples) for value, places in groups.items()}
            for name, groups in group_samples(samples, breakdowns).items()
        },
        official=official or {},
    )


def score_matrix(predictions: Sequence[Prediction], strict: bool = False) -> np.ndarray:
    """(N, K) float64: what each answer adds to each of METRICS."""
    return np.array([score_answer(row.answer, row.spans, row.completion, strict).values for row in predictions])


def summarise(scores: np.ndarray, resamples: int = RESAMPLES) -> Summary:
    """Means of the columns of (N, K), and their intervals."""
    intervals = percentile_intervals(resample_means(scores, resamples))
    return Summary(
        samples=len(scores),
        metrics=dict(zip(METRICS, scores.mean(axis=0).tolist(), strict=True)),
        intervals={name: tuple(ends) for name, ends in zip(METRICS, intervals.tolist(), strict=True)},
    )


def group_samples(samples: Sequence[Sample], keys: Sequence[str] = ()) -> dict[str, dict[str, list[int]]]:
    """Places of the samples by the values of each key that any row has, and by the length of video and moment."""
    labels = {key: [sample.extra.get(key) for sample in samples] for key in keys}
    labels["video_length"] = [_bin(sample.duration, VIDEO_LENGTHS) for sample in samples]
    labels["moment_length"] = [_bin(_moment_length(sample), MOMENT_LENGTHS) for sample in samples]
    groups = {name: _places(values) for name, values in labels.items()}
    return {name: places for name, places in groups.items() if places}


def print_report(report: Report, predictions: Sequence[Prediction], asked: int) -> None:
    """The metrics as a table, and what failed or gave no answer, with its reason."""
    rows = []
    for name, value in report.metrics.items():
        low, high = report.intervals[name]
        label = f"{name} (IoU > {name[3:]})" if report.strict and name.startswith("R1@") else name
        rows.append((label, f"{value:.3f}", f"{low:.3f} to {high:.3f}"))
    rows += [(f"official {name}", f"{value:.2f}", "") for name, value in report.official.items()]
    print_table(["metric", "value", f"{COVERAGE:.0%} interval"], rows)
    print(f"{report.samples} samples, {report.failed} of them could not be asked")
    if report.samples < asked:
        print(f"so far: {asked} were asked for, other shards have the rest")
    for line in list_failures(predictions):
        print(line)
    for failure, count in report.failures.items():
        if count:
            print(f"{failure}: {count}")


def _moment_length(sample: Sample) -> float:
    """Mean length of the sample's true spans."""
    return sum(end - start for start, end in sample.spans) / len(sample.spans)


def _bin(length: float, limits: Sequence[int]) -> str:
    if math.isnan(length):
        return "unknown"
    for low, high in pairwise(limits):
        if length < high:
            return f"{low}-{high} s"
    return f"{limits[-1]}+ s"


def _places(labels: Sequence[Any]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        if label is not None:
            groups.setdefault(str(label), []).append(place)
    return dict(sorted(groups.items(), key=_natural_order))


def _natural_order(group: tuple[str, list[int]]) -> tuple[float, str]:
    """Ranges by where they start, names by the alphabet."""
    start = group[0].partition("-")[0].partition("+")[0]
    return (float(start) if start.isdecimal() else math.inf, group[0])


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
