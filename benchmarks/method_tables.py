"""The tables and the figure of benchmarks/methods.py, from the results that it keeps. S seeds, N queries, K metrics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from taro.errors import TaroError
from taro.evaluation.bootstrap import RESAMPLES, SEED, percentile_intervals
from taro.evaluation.scores import METRICS

SHOWN = ("R1@0.5", "R1@0.7", "mIoU", "timestamp_rate")
DRAWN = {"vtg/R1@0.5": "R1@0.5", "vtg/timestamp_rate": "timestamp_rate"}  # curves, and the metric of the test set beside them
# Curves of a run's steps: what is shown of them, and how it is taken.
OF_RUNS = {"frac_reward_zero_std": ("groups without variance", np.mean), "timing_s/step": ("s a step, median", np.median)}
FEW_SEEDS = "Intervals over fewer than three seeds say nothing of what another seed would give."
BEFORE = "before training"
MIXED = "mixed"  # a world in which all tasks are asked
FEW_METHODS = 6  # whose ranges can be told apart in one figure
ALONE = "only_"  # one with one of them
# 97.5 % quantiles of Student's t, by degrees of freedom.
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def interval(scores: np.ndarray) -> np.ndarray:
    """95 % interval (K, 2) of the mean of (S, N, K): seeds and queries are drawn with replacement."""
    rng, (seeds, queries, _) = np.random.default_rng(SEED), scores.shape
    draws = ((rng.integers(seeds, size=seeds), rng.integers(queries, size=queries)) for _ in range(RESAMPLES))
    return percentile_intervals(np.stack([scores[np.ix_(own, asked)].mean((0, 1)) for own, asked in draws]))


def interval_by_seeds(means: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean of (S), by Student's t: seeds are drawn, and the queries are the ones that are there."""
    seeds = len(means)
    if seeds - 1 < min(STUDENT):
        return None
    half = STUDENT[min(seeds - 1, max(STUDENT))] * means.std(ddof=1) / math.sqrt(seeds)
    return means.mean() - half, means.mean() + half


def compare(found: list[dict], other: list[dict], metric: str, asked: np.ndarray | slice = slice(None)) -> list[str]:
    """Cells: how far a metric is above `other`'s in the queries asked for, paired by seed and query, with its interval over
    both, and the interval over seeds alone. A base, of which there is one result, is paired with every seed."""
    ours, theirs = (stack(results)[:, asked][..., [METRICS.index(metric)]] for results in (found, other))  # (S, N, 1)
    change = ours - theirs
    low, high = interval(change)[0]
    ends = interval_by_seeds(change.mean((1, 2)))
    return [f"{change.mean():+.3f} [{low:+.3f}, {high:+.3f}]", "[{:+.3f}, {:+.3f}]".format(*ends) if ends else ""]


def table(results: dict[tuple, list[dict]], against: str, probes: Sequence[str] = ()) -> str:
    """Markdown, one row for each base, world and method."""
    trained = [one["curves"] for found in results.values() if has_curves(found) for one in found]
    known = [curve for curve in OF_RUNS if trained and all(curve in curves for curves in trained)]  # old results have less
    heads = [*SHOWN, *(OF_RUNS[curve][0] for curve in known), f"R1@0.5 above `{against}`", "by seeds alone"]
    heads += [f"mIoU lost: {probe}" for probe in probes]
    lines = ["| base | world | method | seeds | " + " | ".join(heads) + " |", "|---" * (len(heads) + 4) + "|"]
    for (base, world, method), found in results.items():
        scores = stack(found)  # (S, N, K)
        cells = [spread(scores[..., METRICS.index(metric)].mean(1)) for metric in SHOWN]
        for curve in known:
            there = all(curve in one["curves"] for one in found)
            cells.append(spread(summarise(found, curve)) if there else "")
        other, losses = results.get((base, world, against), []), []
        cells += compare(found, other, "R1@0.5") if other and method != against else ["", ""]
        for probe in probes:
            lost = (scores - stack(found, probe))[..., [METRICS.index("mIoU")]]
            low, high = interval(lost)[0]
            losses.append(f"{lost.mean():.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {' | '.join([base, world, method, str(len(found)), *cells, *losses])} |")
    return "\n".join(lines)


def task_table(results: dict[tuple, list[dict]]) -> str:
    """Markdown, one row for each task of each base and method in the mixed world and in those with one task; "" without any."""
    alone = {}  # (base, method, task): results of the task by itself
    for (base, world, method), found in results.items():
        if world.startswith(ALONE):
            alone[base, method, world.removeprefix(ALONE)] = found
    head = "| base | world | method | task | seeds | mIoU | mIoU above the task alone | own metrics |"
    lines = [head, "|---" * 8 + "|"]
    for (base, world, method), found in results.items():
        tasks = found[0]["tasks"] if world == MIXED or world.startswith(ALONE) else []
        for task in dict.fromkeys(tasks):
            asked = [number for number, name in enumerate(tasks) if name == task]
            scores = stack(found)[:, asked][..., [METRICS.index("mIoU")]]  # (S, N of the task, 1)
            difference, other = "", alone.get((base, method, task), [])
            if world == MIXED and other and has_curves(found):
                if [found[0]["ids"][number] for number in asked] != other[0]["ids"]:
                    raise TaroError(f"{found[0]['name']}, {other[0]['name']}: other queries; make both again from one --data")
                change = scores - stack(other)[..., [METRICS.index("mIoU")]]
                low, high = interval(change)[0]
                difference = f"{change.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            own = [one["task_metrics"].get(task, {}) for one in found]  # grounding has none
            means = ", ".join(f"{name} {np.mean([_number(values[name]) for values in own]):.3f}" for name in own[0])
            cells = [base, world, method, task, str(len(found)), spread(scores.mean((1, 2))), difference, means]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _number(value: float | None) -> float:
    """A metric as metrics.json has it; None: there was nothing to measure it by."""
    return math.nan if value is None else value


def spread(means: np.ndarray) -> str:
    """The mean of the seeds' means (S), the lowest and the highest."""
    ends = f" [{means.min():.3f}, {means.max():.3f}]" if len(means) > 1 else ""
    return f"{means.mean():.3f}{ends}"


def stack(results: Iterable[dict], probe: str | None = None) -> np.ndarray:
    """Scores (S, N, K) of runs that were tested on the same queries, under a probe or under none."""
    results = list(results)
    if any(result["ids"] != results[0]["ids"] for result in results):
        raise TaroError(f"{results[0]['name']}: its seeds have other test queries; make them again in another --results")
    return np.array([result["probes"][probe] if probe else result["scores"] for result in results])


def has_curves(results: list[dict]) -> bool:
    return bool(results[0]["curves"])


def summarise(results: list[dict], curve: str) -> np.ndarray:
    """Of each seed's curve, (S)."""
    _, of_steps = OF_RUNS[curve]
    return np.array([of_steps([value for _, value in result["curves"][curve]]) for result in results])


def plot(results: dict[tuple, list[dict]], path: Path) -> None:
    """Validation over steps, mean and, of a few methods, range of seeds; at the right end the test set with its interval."""
    groups = list(dict.fromkeys(row[:2] for row in results if has_curves(results[row])))
    names = list(dict.fromkeys(row[2] for row in results if has_curves(results[row])))
    few = len(names) <= FEW_METHODS
    palette = plt.get_cmap("tab10" if few else "tab20")
    colors = {name: palette(number % palette.N) for number, name in enumerate(names)}
    size = (11, (2.8 if few else 3.6) * len(groups))
    figure, axes = plt.subplots(len(groups), len(DRAWN), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for (group, line), (column, (curve, metric)) in itertools.product(zip(groups, axes, strict=True), enumerate(DRAWN.items())):
        axis = line[column]
        methods = [row for row in results if row[:2] == group and has_curves(results[row])]
        for number, row in enumerate(methods):
            curves, color = [dict(map(tuple, result["curves"][curve])) for result in results[row]], colors[row[2]]
            steps = sorted(set.intersection(*map(set, curves)))
            values = np.array([[one[step] for step in steps] for one in curves])  # (S, steps)
            axis.plot(steps, values.mean(0), color=color, label=row[2])
            if few:
                axis.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
            scores = stack(results[row])[..., [METRICS.index(metric)]]
            (low, high), mean = interval(scores)[0], scores.mean()
            place = steps[-1] * (1.04 + 0.03 * number)
            axis.errorbar(place, mean, [[mean - low], [high - mean]], color=color, marker="o", markersize=3, capsize=2)
        axis.set(title=f"{metric}: {group[0]}, {group[1]}", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.legend(*_all_labels(axes[:, 0]), loc="outside right upper", frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("optimizer steps; points: the test set")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _all_labels(axes: Iterable[plt.Axes]) -> tuple[list, list[str]]:
    """Lines and names for a legend, each name once."""
    found = {name: line for axis in axes for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)
