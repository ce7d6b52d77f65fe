"""Does a model use time? The table of an evaluation's probes, printed, and as a figure.

    python -m taro.view.probes outputs/eval/whole [--json F]

The folder is that of `eval.py --probe blind,one_frame,... --gap --answer_only --output`. No model is needed: the table is made
from the answers there. The figure is `probes.png` in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taro.command_line import Parser, new_file
from taro.errors import clean_exit
from taro.evaluation.probe_table import (
    ABOUT_WAYS,
    R1,
    ProbeRow,
    ProbeTable,
    about_movement,
    gap_cells,
    has_probes,
    print_probe_table,
    probe_cells,
    read_probe_table,
    way_cells,
)
from taro.files import write_json
from taro.view.charts import Series, bar_chart, number, percent, table
from taro.view.evaluated import read_strict
from taro.view.figure import FAINT, HIGH, LOW, TEXT, TRUTH
from taro.view.html import escape
from taro.view.timeline import ViewError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = "probes.png"
WIDTH, ROW = 9.0, 0.3  # inches


def draw_probes(found: ProbeTable) -> Figure:
    """Mean IoU of each version of the questions and of blind answers, and the temporal gaps. Whiskers: 95 % intervals, of what
    is lost against the questions as they are, and of the gaps.

    Raises:
        ViewError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ViewError("figures need matplotlib: pip install matplotlib") from None
    rows = [*found.probes, *found.blind]
    parts = [len(rows), len(found.gaps)] if found.gaps else [len(rows)]
    height = ROW * sum(parts) + 0.8 * len(parts)
    figure = Figure(figsize=(WIDTH, height), facecolor="white", layout="constrained")
    axes = figure.subplots(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    whole, _ = _ends(found.probes[0], found.probes[0])
    axes[0].axvline(whole, color=TRUTH, lw=1, ls=":")
    for place, row in enumerate(rows):
        colour = TRUTH if place == 0 else HIGH if place < len(found.probes) else "#9aa5b1"
        _bar(axes[0], place, row.miou, _ends(row, found.probes[0]) if row.lost else None, colour)
        if row.followed:
            said = f"  answers move by {row.followed} of the shift"
            axes[0].text(max(row.miou, _ends(row, found.probes[0])[1]), place, said, va="center", fontsize=8, color=TEXT)
    _finish(axes[0], [row.name for row in rows], "mean IoU; whiskers: what is lost, 95 % interval")
    if found.gaps:
        for place, row in enumerate(found.gaps):
            _bar(axes[1], place, row.gap.value, row.gap.interval, LOW)
        axes[1].axvline(0, color=TEXT, lw=0.6)
        label = "temporal gap of the answers, nats per token; whiskers: 95 % interval"
        _finish(axes[1], [row.tokens for row in found.gaps], label)
    return figure


def _ends(row: ProbeRow, whole: ProbeRow, metric: str = "miou") -> tuple[float, float]:
    """Where the interval of what is lost ends, on the scale of the metric."""
    lost, value = (row.lost, whole.miou) if metric == "miou" else (row.r1_lost, whole.r1)
    return (value, value) if lost is None else (value - lost.interval[1], value - lost.interval[0])


def _bar(axis, place: int, value: float, ends: tuple[float, float] | None, colour: str) -> None:
    axis.barh(place, value, height=0.65, color=colour)
    if ends is not None:
        axis.errorbar(sum(ends) / 2, place, xerr=(ends[1] - ends[0]) / 2, color=TEXT, capsize=2.5, lw=1, fmt="none")


def _finish(axis, names: Sequence[str], label: str) -> None:
    axis.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel(label, fontsize=8, color=FAINT)
    axis.tick_params(length=2, labelsize=8, colors=TEXT)
    for name, side in axis.spines.items():
        side.set_visible(name == "bottom")


def probe_sections(folder: Path, strict: bool, name: str) -> list[str]:
    """For the report of an evaluation, by its name: its table and its charts; nothing where no probe was asked for."""
    if not has_probes(folder):
        return []
    found = read_probe_table(folder, strict)
    parts = [f"<h2>Does it use time? {escape(name)}</h2>", *(f'<p class="warning">{escape(one)}</p>' for one in found.remarks)]
    charts = []
    if len(found.probes) > 1:
        parts.append(table(*probe_cells(found), "; ".join(about_movement(found))))
        rows, whole = [*found.probes, *found.blind], found.probes[0]
        ends = [[_ends(row, whole, name) for name in ("miou", "r1")] if row.lost else None for row in rows]
        series = [Series(row.name, (row.miou, row.r1), own) for row, own in zip(rows, ends, strict=True)]
        note = "lines: 95 % intervals of what is lost against the videos as they are"
        charts.append(bar_chart("Answers to changed videos, and blind ones", ["mIoU", R1], series, percent, note))
    if found.gaps:
        caption = "how much less likely the answers get with frames shuffled around the true boundaries"
        parts.append(table(*gap_cells(found), caption))
        values, intervals = [row.gap.value for row in found.gaps], [row.gap.interval for row in found.gaps]
        series = [Series("gap", values, intervals)]
        charts.append(bar_chart("Temporal gap, nats per token", [row.tokens for row in found.gaps], series, number))
    if found.ways:
        parts.append(table(*way_cells(found), ABOUT_WAYS))
    return [*parts, f'<div class="charts">{"".join(charts)}</div>']


def show_probes(folder: Path, strict: bool) -> ProbeTable:
    """Print the table, and draw the figure where that can be."""
    found = read_probe_table(folder, strict)
    print_probe_table(found)
    try:
        draw_probes(found).savefig(folder / FIGURE, dpi=130)
        print(f"the figure is {folder / FIGURE}")
    except ViewError as error:
        print(error)
    return found


def main(arguments: list[str] | None = None) -> ProbeTable:
    """Print the table, draw the figure, and return the table."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of an evaluation with several probes, --gap or --answer_only")
    parser.add_argument("--json", type=new_file, metavar="F", help="write the table there, too")
    args = parser.parse_args(arguments)
    if not has_probes(args.folder):
        raise ViewError(f"{args.folder}: holds no probes; eval.py --probe A,B, --gap and --answer_only write them there")
    found = show_probes(args.folder, read_strict(args.folder))
    if args.json is not None:
        write_json(args.json, found)
    return found


if __name__ == "__main__":
    with clean_exit():
        main()
