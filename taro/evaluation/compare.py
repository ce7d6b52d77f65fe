"""Two evaluations of the same samples side by side, with a paired bootstrap of the differences.

    python -m taro.evaluation.compare outputs/eval/base outputs/eval/trained [--strict]

Both folders are those of `eval.py --output`. `R` resamples, `K` metrics, `A` queries that both answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from taro.command_line import Parser
from taro.errors import clean_exit
from taro.evaluation.bootstrap import COVERAGE, percentile_intervals, resample_means, two_sided_p_values
from taro.evaluation.predictions import EvaluationError, Prediction, count_failures, load_predictions
from taro.evaluation.report import score_matrix, task_metrics
from taro.evaluation.scores import METRICS
from taro.jsonl import list_differences, read_config
from taro.messages import list_lines, print_table, signed

MAY_DIFFER = ("model", "model_files", "shards")  # without a warning
MOVES = ("start", "end", "middle", "distance")  # the last one either way, mean of both ends


@dataclass(frozen=True)
class Change:
    """One metric of two runs."""

    metric: str
    first: float
    second: float
    interval: tuple[float, float]  # of second - first, 95 %
    p_value: float  # two-sided, by the bootstrap

    @property
    def difference(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class Movement:
    """How far the answers of the second run are from those of the first, on average, of the queries that both answered."""

    answers: int
    expected: float  # seconds that an answer moves which is read off the time labels
    seconds: dict[str, float]  # by MOVES; later is positive
    intervals: dict[str, tuple[float, float]]  # 95 %


@dataclass(frozen=True)
class Comparison:
    """Two runs."""

    samples: int
    changes: tuple[Change, ...]  # one for each of METRICS
    failures: tuple[dict[str, int], dict[str, int]]  # by kind
    settings: dict[str, tuple[Any, Any]]  # that differ, the model apart
    tasks: dict[str, tuple[float, float]]  # own metrics of tasks, as `TASK NAME`
    tokens: tuple[float, float]  # made for a question; 0 in folders of before they were counted
    movement: Movement | None  # of runs with different probes, where there are answers


def compare_runs(first: str | Path, second: str | Path, strict: bool = False) -> Comparison:
    """
    Args:
        first, second: folders of finished evaluations.
        strict: R1 counts IoU > level and not >=.

    Raises:
        EvaluationError: a folder is not that of a finished evaluation, or the samples are not the same.
        RowError: predictions that can't be read.
    """
    ordered = _same_samples(load_predictions(first), load_predictions(second))
    configs = read_config(first), read_config(second)
    (first_probe, first_shift), (second_probe, second_shift) = (
        (config.get("probe"), config.get("label_shift", 0.0)) for config in configs
    )
    scores = [score_matrix(predictions, strict) for predictions in ordered]  # (N, K) each
    first_own, second_own = (task_metrics(predictions) for predictions in ordered)
    differences = resample_means(scores[1] - scores[0])  # (R, K)
    values = zip(
        METRICS,
        *(part.mean(axis=0).tolist() for part in scores),
        percentile_intervals(differences).tolist(),
        two_sided_p_values(differences).tolist(),
        strict=True,
    )
    return Comparison(
        samples=len(scores[0]),
        changes=tuple(Change(metric, a, b, tuple(interval), p) for metric, a, b, interval, p in values),
        failures=tuple(count_failures(predictions) for predictions in ordered),
        settings={
            name: values
            for name, values in list_differences(*configs).items()
            if name.partition(".")[0] not in MAY_DIFFER
        },
        tasks={
            f"{task} {name}": (value, second_own[task][name])
            for task, metrics in first_own.items()
            for name, value in metrics.items()
        },
        tokens=tuple(fmean(one.tokens for one in predictions) for predictions in ordered),
        movement=None if first_probe == second_probe else _movement(*ordered, expected=second_shift - first_shift),
    )


def _movement(first: Sequence[Prediction], second: Sequence[Prediction], expected: float) -> Movement | None:
    pairs = [(one.answer, other.answer) for one, other in zip(first, second, strict=True) if one.answer and other.answer]
    if not pairs:
        return None
    ends = np.array([np.subtract(there, here) for here, there in pairs])  # (A, 2)
    moved = np.column_stack([ends, ends.mean(1), np.abs(ends).mean(1)])  # (A, 4)
    intervals = percentile_intervals(resample_means(moved)).tolist()
    return Movement(
        answers=len(pairs),
        expected=expected,
        seconds=dict(zip(MOVES, moved.mean(axis=0).tolist(), strict=True)),
        intervals={move: tuple(interval) for move, interval in zip(MOVES, intervals, strict=True)},
    )


def _same_samples(first: Sequence[Prediction], second: Sequence[Prediction]) -> tuple[list[Prediction], list[Prediction]]:
    """Both in the first's order."""
    here, there = ({prediction.id: prediction for prediction in run} for run in (first, second))
    faults = {
        "in the first alone": [name for name in here if name not in there],
        "in the second alone": [name for name in there if name not in here],
        "with another query or other true spans": [
            name for name in here if name in there and _asked(here[name]) != _asked(there[name])
        ],
    }
    if any(faults.values()):
        head = "the runs can't be compared: evaluate both on the same samples. There are"
        parts = [list_lines(f"{len(names)} samples {fault}:", names) for fault, names in faults.items() if names]
        raise EvaluationError("\n".join([head, *parts]))
    return list(here.values()), [there[name] for name in here]


def _asked(prediction: Prediction) -> tuple[Any, ...]:
    return prediction.query, prediction.spans, prediction.task, prediction.right_choice


def print_comparison(comparison: Comparison) -> None:
    """What differs between the settings, the metrics as a table, and what failed."""
    for name, (first, second) in comparison.settings.items():
        print(f"warning: {name} differs: {first!r} and {second!r}")
    rows = []
    for change in comparison.changes:
        values = f"{change.first:.3f}", f"{change.second:.3f}", signed(change.difference)
        interval = " to ".join(map(signed, change.interval))
        rows.append([change.metric, *values, interval, f"{change.p_value:.3f}"])
    print_table(["metric", "first", "second", "change", f"{COVERAGE:.0%} interval", "p"], rows)
    if comparison.tasks:
        own = [(name, f"{a:.3f}", f"{b:.3f}", signed(b - a)) for name, (a, b) in comparison.tasks.items()]
        print_table(["metric of a task", "first", "second", "change"], own)
    if comparison.movement is not None:
        print_movement(comparison.movement)
    tokens = "; tokens for each: {:.0f} and {:.0f}".format(*comparison.tokens) if all(comparison.tokens) else ""
    print(f"{comparison.samples} samples{tokens}")
    first, second = comparison.failures
    for failure in first:
        if first[failure] or second[failure]:
            print(f"{failure}: {first[failure]} and {second[failure]}")


def print_movement(movement: Movement) -> None:
    """How far the answers moved, beside the shift of the labels where there is one."""
    rows = []
    for move, value in movement.seconds.items():
        low, high = movement.intervals[move]
        sign = "" if move == "distance" else "+"
        label = "either way, mean of both ends" if move == "distance" else f"{move} of the answer"
        rows.append((label, f"{value:{sign}.2f}", f"{low:{sign}.2f} to {high:{sign}.2f}"))
    if movement.expected:
        rows.append(("time labels", f"{movement.expected:+.2f}", ""))
    print_table([f"seconds later, {movement.answers} that both answered", "mean", f"{COVERAGE:.0%} interval"], rows)


def main(arguments: list[str] | None = None) -> Comparison:
    """Print the comparison and return it."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("first", type=Path, help="folder of an evaluation")
    parser.add_argument("second", type=Path, help="another one, of the same samples")
    parser.add_argument("--strict", action="store_true", help="R1@m counts IoU > m, as Time-R1's evaluation does, and not >=")
    args = parser.parse_args(arguments)
    comparison = compare_runs(args.first, args.second, args.strict)
    for place, folder in (("first", args.first), ("second", args.second)):
        print(f"{place}: {folder}, model {read_config(folder)['model']}")
    print_comparison(comparison)
    return comparison


if __name__ == "__main__":
    with clean_exit():
        main()
