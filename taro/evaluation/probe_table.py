"""Does a model use time? One table of what its answers lose with the video changed, beside answers that never saw it; of how
much its own answers depend on the order of the frames; and of what its reasoning is worth at equal tokens.

It is made from the folder of `eval.py --probe ... --gap --answer_only --output`: the answers to the questions as they are, and
within it a folder of the same form for each probe (`taro.evaluation.probes`) and each way to answer without reasoning
(`taro.evaluation.answer_only`), and `gap/`. `python -m taro.view.probes` prints it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taro.evaluation.answer_only import OFTEN, ONCE
from taro.evaluation.blind import ROUNDED, TRAINING
from taro.evaluation.bootstrap import COVERAGE, percentile_intervals, resample_means
from taro.evaluation.compare import Change, Comparison, compare_runs
from taro.evaluation.probes import PROBES
from taro.evaluation.scores import IOU_LEVELS
from taro.jsonl import CONFIG_NAME, read_config, read_folder
from taro.messages import print_table, three_places

GAPS = "gap"  # the folder, and `<name>.jsonl` in it
WHOLE = "as they are"
R1 = "R1@0.5"
OWN_SETTINGS = ("probe", "label_shift", "completion_start", "median_of", "median_temperature")  # that differ by intention
WAYS = (ONCE, OFTEN)
ABOUT_WAYS = "tokens: made for a question, with the same max_tokens; answer only: without reasoning"
THINKING, ANSWER_ONLY = "thinking", "answer only"


@dataclass(frozen=True)
class Estimate:
    """A mean over samples with its 95 % bootstrap interval."""

    value: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = map(three_places, self.interval)
        return f"{three_places(self.value)} [{low}, {high}]"


@dataclass(frozen=True)
class ProbeRow:
    """One version of the questions, or one blind answer.

    Attributes:
        name: of the probe.
        miou, r1: mean IoU and R1@0.5.
        lost: of the mean IoU against the questions as they are; None for these themselves, and for blind answers.
        r1_lost: the same of R1@0.5.
        moved: seconds between the answers, either way, mean of both ends; None likewise, and where none can be read.
        followed: share of the shift of the time labels by which answers moved; None without a shift.
        answered: samples with an answer on both, of which these two are.
    """

    name: str
    miou: float
    r1: float
    lost: Estimate | None = None
    r1_lost: Estimate | None = None
    moved: Estimate | None = None
    followed: Estimate | None = None
    answered: int = 0


@dataclass(frozen=True)
class GapRow:
    """How much less likely one set of tokens of the answers gets, nats per token, when frames are shuffled around the true
    boundaries; over the answers that have such tokens."""

    tokens: str
    answers: int
    gap: Estimate
    positive: float  # share of the answers


@dataclass(frozen=True)
class WayRow:
    """One way to answer: with reasoning, or without."""

    name: str
    answers: int  # to each question
    tokens: float  # made for a question; 0 where they were not counted
    miou: float
    r1: float
    gained: Estimate | None  # of the mean IoU against the answers with reasoning


@dataclass(frozen=True)
class ProbeTable:
    """What there is in a folder; parts that were not asked for are empty."""

    samples: int
    probes: tuple[ProbeRow, ...]  # the first one is of the questions as they are
    blind: tuple[ProbeRow, ...]
    gaps: tuple[GapRow, ...]
    ways: tuple[WayRow, ...]
    remarks: tuple[str, ...]  # other settings that differ, and what is not finished


def has_probes(folder: Path) -> bool:
    """Whether there is more in it than answers to the questions as they are."""
    return any((folder / name / CONFIG_NAME).is_file() for name in (*PROBES, *WAYS, GAPS))


def read_probe_table(folder: Path, strict: bool = False) -> ProbeTable:
    """
    Args:
        folder: of `eval.py --output`.
        strict: R1 counts IoU > level and not >=.

    Raises:
        EvaluationError: an evaluation is not finished, or the samples of two are not the same.
        RowError: predictions that can't be read.
    """
    there = {name: compare_runs(folder, folder / name, strict) for name in (*PROBES, *WAYS) if (folder / name).is_dir()}
    plain = next(iter(there.values()), None) or compare_runs(folder, folder, strict)
    miou, r1 = _changes(plain)
    probes = [ProbeRow(WHOLE, miou.first, r1.first)]
    probes += [_probe_row(name, comparison) for name, comparison in there.items() if name in PROBES]
    gaps, remarks = _read_gaps(folder / GAPS, plain.samples)
    remarks += [
        f"{name} was asked with another {setting}: {second!r}, and not {first!r}"
        for name, comparison in there.items()
        for setting, (first, second) in comparison.settings.items()
        if setting not in OWN_SETTINGS
    ]
    ways = []
    if not there.keys().isdisjoint(WAYS):
        ways.append(WayRow(THINKING, 1, plain.tokens[0], miou.first, r1.first, None))
        ways += [_way_row(folder / name, there[name]) for name in WAYS if name in there]
    return ProbeTable(plain.samples, tuple(probes), tuple(_read_blind(folder)), tuple(gaps), tuple(ways), tuple(remarks))


def _changes(comparison: Comparison) -> tuple[Change, Change]:
    by_name = {change.metric: change for change in comparison.changes}
    return by_name["mIoU"], by_name[R1]


def _probe_row(name: str, comparison: Comparison) -> ProbeRow:
    (miou, r1), movement = _changes(comparison), comparison.movement
    moved = followed = None
    if movement is not None:
        moved = Estimate(movement.seconds["distance"], movement.intervals["distance"])
        if movement.expected:
            value, *ends = (one / movement.expected for one in (movement.seconds["middle"], *movement.intervals["middle"]))
            followed = Estimate(value, (min(ends), max(ends)))
    answered = 0 if movement is None else movement.answers
    return ProbeRow(name, miou.second, r1.second, _lost(miou), _lost(r1), moved, followed, answered)


def _lost(change: Change) -> Estimate:
    low, high = change.interval
    return Estimate(0.0 - change.difference, (0.0 - high, 0.0 - low))


def _way_row(folder: Path, comparison: Comparison) -> WayRow:
    (miou, r1), answers = _changes(comparison), read_config(folder).get("median_of", 1)
    return WayRow(ANSWER_ONLY, answers, comparison.tokens[1], miou.second, r1.second, Estimate(miou.difference, miou.interval))


def _read_blind(folder: Path) -> list[ProbeRow]:
    """As the evaluation has put them beside its metrics."""
    path = folder / "metrics.json"
    rows = json.loads(path.read_bytes()).get("blind", ()) if path.is_file() else ()
    half = IOU_LEVELS.index(0.5)

    def name(row: dict[str, Any]) -> str:
        return f"{row['name']}, {TRAINING}" if row.get("fitted") == TRAINING else row["name"]

    return [ProbeRow(name(row), row["miou"], row["r1"][half]) for row in rows if row["name"] != ROUNDED]


def _read_gaps(folder: Path, samples: int) -> tuple[list[GapRow], list[str]]:
    """By set of tokens, and what is to be said of them."""
    if not folder.is_dir():
        return [], []
    rows = list(read_folder(folder, GAPS).values())
    by_tokens: dict[str, list[float]] = {}
    for row in rows:
        for tokens, gap in (row["gaps"] or {}).items():
            by_tokens.setdefault(tokens, []).extend([] if gap is None else [gap])
    remarks = [f"the gaps of {len(rows)} of {samples} samples were measured"] if len(rows) < samples else []
    return [_gap_row(tokens, gaps) for tokens, gaps in by_tokens.items() if gaps], remarks


def _gap_row(tokens: str, gaps: Sequence[float]) -> GapRow:
    values = np.array(gaps)
    ((low, high),) = percentile_intervals(resample_means(values[:, None])).tolist()
    return GapRow(tokens, len(gaps), Estimate(float(values.mean()), (low, high)), float((values > 0).mean()))


Cells = list[tuple[str, ...]]


def probe_cells(table: ProbeTable) -> tuple[list[str], Cells]:
    """Columns and rows of what the probes found."""
    return ["videos", "mIoU", f"mIoU lost [{COVERAGE:.0%}]", R1, "moved, s"], [
        (
            row.name,
            f"{row.miou:.3f}",
            _said(row.lost),
            f"{row.r1:.3f}",
            "" if row.moved is None else f"{row.moved.value:.2f}",
        )
        for row in (*table.probes, *table.blind)
    ]


def gap_cells(table: ProbeTable) -> tuple[list[str], Cells]:
    """Columns and rows of the temporal gap by set of tokens."""
    columns = ["tokens", "answers", f"temporal gap, nats per token [{COVERAGE:.0%}]", "above 0"]
    return columns, [(row.tokens, str(row.answers), str(row.gap), f"{row.positive:.0%}") for row in table.gaps]


def way_cells(table: ProbeTable) -> tuple[list[str], Cells]:
    """Columns and rows of answers with reasoning and without."""
    columns = ["way", "tokens", "mIoU", R1, f"mIoU gained [{COVERAGE:.0%}]"]
    return columns, [
        (
            row.name if row.answers == 1 else f"{row.name}, median of {row.answers}",
            f"{row.tokens:.0f}" if row.tokens else "–",
            f"{row.miou:.3f}",
            f"{row.r1:.3f}",
            _said(row.gained),
        )
        for row in table.ways
    ]


def _said(estimate: Estimate | None) -> str:
    return "" if estimate is None else str(estimate)


def about_movement(table: ProbeTable) -> list[str]:
    """Of how many samples it is, and how much of a shift of the labels."""
    counts = sorted({row.answered for row in table.probes[1:]})
    said = f"moved: either way, mean of both ends; {' to '.join(map(str, counts[:: len(counts) - 1 or 1]))} of {table.samples} "
    lines = [f"{said}samples were answered on both"]
    for row in table.probes:
        if row.followed:
            lines.append(f"{row.name}: answers move by {row.followed} of the shift")
    return lines


def print_probe_table(table: ProbeTable) -> None:
    """All that there is."""
    for remark in table.remarks:
        print(f"warning: {remark}")
    if len(table.probes) > 1:
        print_table(*probe_cells(table))
        print(*about_movement(table), sep="\n")
    if table.gaps:
        print_table(*gap_cells(table))
    if table.ways:
        print_table(*way_cells(table))
        print(ABOUT_WAYS)
