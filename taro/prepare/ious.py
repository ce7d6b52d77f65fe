"""How well a model answers each sample: the IoU of its answers with the truth, kept in the samples' rows or found in the
rollouts of a training run.

A row's `difficulty` is the mean IoU in percent, as in Time-R1's files (so the higher, the easier); all else is in [0, 1].
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from taro.data.samples import Sample
from taro.errors import TaroError
from taro.jsonl import read_rows
from taro.messages import describe_fault, list_lines
from taro.rows import is_number

# Keys of a row that are not fields of a sample.
DIFFICULTY = "difficulty"
IOUS = "ious"  # of each answer
FAILURE = "difficulty_failure"  # why there is neither

BINS = [k / 10 for k in range(11)]
BAR = 40  # characters
_ROLLOUT_KEYS = {"id", "query", "constructed", "iou"}


class SelectionError(TaroError):
    """Nothing can be selected as asked; nothing was written."""


def with_ious(sample: Sample, ious: Sequence[float], failure: str | None = None) -> Sample:
    """The sample with these IoUs and their mean in place of earlier ones; without both, but with the `failure`, where there
    are none."""
    rest = {name: value for name, value in sample.extra.items() if name not in (DIFFICULTY, IOUS, FAILURE)}
    if ious:
        rest |= {DIFFICULTY: 100 * fmean(ious), IOUS: list(ious)}
    elif failure is not None:
        rest[FAILURE] = failure
    return replace(sample, extra=rest)


def read_difficulties(samples: Iterable[Sample]) -> dict[str, float]:
    """IoU in [0, 1] by id, of the samples that have a `difficulty`. SelectionError where none has, or one is no percentage."""
    ious, wrong = {}, []
    for sample in samples:
        value = sample.extra.get(DIFFICULTY)
        if value is None:
            continue
        if is_number(value) and 0 <= value <= 100:
            ious[sample.id] = value / 100
        else:
            wrong.append(f"{sample.id}: {describe_fault(DIFFICULTY, value, '0 to 100 (percent), or null')}")
    if wrong:
        raise SelectionError(list_lines(f"{len(wrong)} difficulties can't be read:", wrong))
    if not ious:
        raise SelectionError(
            f"no sample has a {DIFFICULTY}: score them (python -m taro.prepare.difficulty --model ...), or give --rollouts"
        )
    return ious


def read_rollouts(folder: Path, samples: Sequence[Sample]) -> dict[str, tuple[float, ...]]:
    """IoUs of each sample's group of completions by id, from when training last met it. Completions that start with a
    constructed path say little about what the model finds by itself: they don't count.

    Args:
        folder: of the run.
        samples: that it was trained on; more or fewer are allowed.

    Raises:
        SelectionError: there are no such rollouts, or they are of other samples.
        ResumeError: a line that can't be read.
    """
    queries = {sample.id: sample.query for sample in samples}
    ious: dict[str, tuple[int, list[float]]] = {}  # with the step that they are of
    others: dict[str, str] = {}
    count = 0
    for step, path in sorted((int(re.match(r"step_(\d+)", path.name)[1]), path) for path in rollout_files(folder)):
        for row in read_rows(path):
            if not row.keys() >= _ROLLOUT_KEYS:
                raise SelectionError(f"{path}: its rows must have {', '.join(sorted(_ROLLOUT_KEYS))}: has train.py written it?")
            count += 1
            id = row["id"]
            if row["constructed"] or id not in queries:
                continue
            if row["query"] != queries[id]:
                others[id] = f"{id}: {row['query']!r} there, {queries[id]!r} in --input"
            if id not in ious or ious[id][0] != step:
                ious[id] = step, []
            ious[id][1].append(row["iou"])
    if others:
        raise SelectionError(list_lines(f"--rollouts {folder}: is of other samples, {len(others)} differ:", [*others.values()]))
    if not ious:
        raise SelectionError(
            f"--rollouts {folder}: none of its {count} completions can be used: they must be of samples in --input, and not "
            "start with a constructed path (train with curriculum.warmup_epochs 0, or score with --model)"
        )
    return {id: tuple(own) for id, (_, own) in ious.items()}


def rollout_files(folder: Path) -> list[Path]:
    """Those that a run has written so far, in no order."""
    return list((folder / "rollouts").glob("step_*.jsonl"))  # of several ranks: step_000001_rank0.jsonl


def histogram(before: Iterable[float], after: Iterable[float] | None = None) -> str:
    """How many IoUs are 0 and in each tenth above, (low, high], in lines; with bars of the last ones."""
    columns = {"samples": before} if after is None else {"before": before, "after": after}
    counts = [Counter(bisect_left(BINS, iou) for iou in ious) for ious in columns.values()]
    longest = max([*counts[0].values(), 1])
    lines = [f"{'IoU':<12}" + "".join(f"{name:>8}" for name in columns)]
    for k, high in enumerate(BINS):
        name = f"{BINS[k - 1]:.1f} to {high:.1f}" if k else "0"
        bar = "#" * math.ceil(BAR * counts[-1][k] / longest)
        lines.append((f"{name:<12}" + "".join(f"{own[k]:>8}" for own in counts) + f"  {bar}").rstrip())
    return "\n".join(lines)
