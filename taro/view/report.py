"""One page about an evaluation, or about two of the same samples side by side.

    python -m taro.view.report outputs/eval/base [outputs/eval/trained] [--output report.html]

The folders are those of `eval.py --output`. The page is one file: it needs no network and can be sent to others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from taro.command_line import Parser, at_least
from taro.errors import clean_exit
from taro.evaluation.beside import put_beside
from taro.evaluation.blind import about_fit
from taro.evaluation.bootstrap import COVERAGE
from taro.evaluation.compare import Comparison, compare_runs
from taro.evaluation.predictions import FAILURES, count_failures
from taro.evaluation.protocols import PROTOCOLS, find_cut, remarks_on
from taro.evaluation.report import Summary
from taro.evaluation.scores import IOU_LEVELS
from taro.evaluation.training_file import find_fit
from taro.messages import shorten, signed
from taro.view.charts import Series, bar_chart, line_chart, percent, table
from taro.view.evaluated import Evaluated, read_evaluation
from taro.view.fiftyone import export
from taro.view.gallery import PAGE, gallery_orders, gallery_rows, shown_first
from taro.view.html import escape, make_page, write_page
from taro.view.probes import probe_sections
from taro.view.statistics import BINS, SHOWN, THRESHOLDS, Statistics, measure
from taro.view.strips import make_strips
from taro.view.trained_on import training_sections

STRIPS = 40  # videos whose frames are shown
REPORT = "report.html"
GROUPS = {
    "position": "where in the video the moment is",
    "moment_length": "length of the moment",
    "video_length": "length of the video",
    "task": "task",
}


def make_report_page(runs: Sequence[Evaluated], strict: bool = False, strips: int = STRIPS) -> tuple[str, list[str]]:
    """A whole page, and what is missing in it, in words.

    Args:
        runs: one evaluation, or two of the same samples.
        strict: R1 counts IoU > level and not >=.
        strips: at most so many videos are shown as frames.

    Raises:
        EvaluationError: the samples of the two are not the same.
    """
    comparison = compare_runs(runs[0].folder, runs[1].folder, strict) if len(runs) > 1 else None
    statistics = [measure(run, strict) for run in runs]
    names = run_names(runs)
    orders = gallery_orders(runs)
    found = make_strips(shown_first(runs[0].samples, orders), strips)
    remarks = [*runs[0].remarks, *found.remarks(" (name their folder with --video_root)")]
    data = {
        "names": names,
        "rows": gallery_rows(runs),
        "orders": orders,
        "page": PAGE,
        "failures": FAILURES,
        "tasks": list(dict.fromkeys(sample.task for sample in runs[0].samples)),
        "pictures": found.pictures,
        "strips": found.of_sample,
    }
    title = f"{runs[0].dataset}: {' and '.join(names)}"
    body = "\n".join(
        [
            *_head(runs, names, statistics, remarks),
            _metrics(runs, names, statistics, strict) if comparison is None else _comparison(comparison, names, strict),
            *_tasks(names, statistics),
            *_beside(runs, names),
            *(line for run, name in zip(runs, names, strict=True) for line in probe_sections(run.folder, strict, name)),
            *(line for run, name in zip(runs, names, strict=True) for line in training_sections(run, name)),
            *_charts(names, statistics),
            _failures(runs, names),
            _GALLERY.format(frames="; frames: on the first page of each order" if found.pictures else ""),
        ]
    )
    return make_page(title, body, data, "report"), remarks


def run_names(runs: Sequence[Evaluated]) -> list[str]:
    """What each is called: its folder, with what is above it where both have the same name."""
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [str(run.folder) for run in runs] if len({str(run.folder) for run in runs}) > 1 else ["first", "second"]


def _head(
    runs: Sequence[Evaluated], names: Sequence[str], statistics: Sequence[Statistics], remarks: Sequence[str]
) -> list[str]:
    lines = [f"<h1>{escape(runs[0].dataset)}</h1>", f'<p class="faint">{statistics[0].summary.samples} samples</p>']
    lines += [f'<p class="faint">{escape(f"{name}: {run.made_with}")}</p>' for name, run in zip(names, runs, strict=True)]
    return lines + [f'<p class="warning">{escape(remark)}</p>' for remark in remarks]


def _metrics(runs: Sequence[Evaluated], names: Sequence[str], statistics: Sequence[Statistics], strict: bool) -> str:
    summary = statistics[0].summary
    rows = [
        (_metric_name(name, strict), f"{value:.3f}", "{:.3f} to {:.3f}".format(*summary.intervals[name]))
        for name, value in summary.metrics.items()
    ]
    rows += [(f"official {name}", _score(value), "") for name, value in runs[0].official.items()]
    caption = "means over all samples, those without an answer included"
    return "<h2>Metrics</h2>" + table(["metric", "value", f"{COVERAGE:.0%} interval"], rows, caption)


def _comparison(comparison: Comparison, names: Sequence[str], strict: bool) -> str:
    lines = ["<h2>Metrics</h2>"]
    for name, (first, second) in comparison.settings.items():
        lines.append(f'<p class="warning">{escape(f"{name} differs: {shorten(first)} and {shorten(second)}")}</p>')
    rows = [
        (
            _metric_name(change.metric, strict),
            f"{change.first:.3f}",
            f"{change.second:.3f}",
            signed(change.difference),
            " to ".join(map(signed, change.interval)),
            f"{change.p_value:.3f}",
        )
        for change in comparison.changes
    ]
    columns = ["metric", *names, "change", f"{COVERAGE:.0%} interval", "p"]
    return "".join(lines) + table(columns, rows, "means over all samples; change: second minus first")


def _tasks(names: Sequence[str], statistics: Sequence[Statistics]) -> list[str]:
    """A table of the metrics of each task; none for the default task alone."""
    metrics = {(task, name): None for one in statistics for task, found in one.tasks.items() for name in found}
    if not metrics:
        return []
    rows = [(f"{task} {name}", *(_number(one.tasks.get(task, {}).get(name)) for one in statistics)) for task, name in metrics]
    return ["<h2>Tasks</h2>" + table(["metric", *names], rows, "means over the samples of each task, by its own measures, too")]


def _beside(runs: Sequence[Evaluated], names: Sequence[str]) -> list[str]:
    """Tables of the same answers by every rule in use, and of blind answers."""
    fit = next(filter(None, (find_fit(run.model, run.fit) for run in runs)), None)
    found = [put_beside(run.samples, run.predictions, find_cut(run.model), fit) for run in runs]
    columns = [f"{name}: {metric}" if len(names) > 1 else metric for name in names for metric in ("R1@0.5", "mIoU", "unread")]
    rules = [
        (
            rows[0].protocol,
            *(cell for row in rows for cell in (*_rates(row.r1, row.miou), f"{row.unread} of {row.counted}")),
        )
        for rows in zip(*(one.protocols for one in found), strict=True)
    ]
    lines = []
    if rules:
        caption = (
            "the same answers, by the rule of each tool; unread: of the samples that it counts, those without an answer that "
            "it can read"
        )
        lines.append("<h2>By other rules</h2>" + table(["rule", *columns], rules, caption))
        for name, one in zip(names, found, strict=True):
            lines += [f'<p class="faint">{escape(f"{name}: {remark}")}</p>' for remark in remarks_on(one.protocols)]
        about = [(rule.name, *rule.describe(), rule.source) for rule in PROTOCOLS]
        lines.append(table(["rule", "reads", "hit", "failed video", "source"], about, "what each rule does"))
    if found[0].blind and not math.isnan(sum(sample.duration for sample in runs[0].samples)):
        blind = [(row.name, row.fitted or "", *_rates(row.r1, row.miou)) for row in found[0].blind]
        rows = table(["answer", "fitted on", "R1@0.5", "mIoU"], blind, about_fit(found[0].fit))
        lines.append("<h2>Answers that never saw the video</h2>" + rows)
    return lines


def _rates(r1: Sequence[float], miou: float) -> tuple[str, str]:
    """R1@0.5 and mIoU. `r1`: at each of IOU_LEVELS."""
    return f"{r1[IOU_LEVELS.index(0.5)]:.3f}", f"{miou:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _score(value: float | None) -> str:
    """Of the official scorer, which has none for a subset without samples."""
    return "–" if value is None else f"{value:.2f}"


def _metric_name(name: str, strict: bool) -> str:
    return f"{name} (IoU > {name[3:]})" if strict and name.startswith("R1@") else name


def _charts(names: Sequence[str], statistics: Sequence[Statistics]) -> list[str]:
    bins = ["0", *(f"{k / BINS:.1f}" for k in range(1, BINS + 1))]
    shares = [[count / len(one.ious) for count in one.histogram] for one in statistics]
    reached = [Series(name, one.recall) for name, one in zip(names, statistics, strict=True)]
    note = "0, and tenths up to the number named"
    charts = [
        bar_chart("How well answers fit: samples by IoU", bins, _series(names, shares), note=note),
        line_chart("Recall: share of samples with at least this IoU", THRESHOLDS.tolist(), reached, axis="IoU"),
    ]
    rates = [key for key in statistics[0].summary.metrics if key.endswith("_rate")]
    labels = [key.removesuffix("_rate") for key in rates]
    by_run = [[one.summary.metrics[key] for key in rates] for one in statistics]
    ends = [[one.summary.intervals[key] for key in rates] for one in statistics]
    note = "parse: an answer can be read; timestamp: the reasoning names a time; format: one think block, then one answer block"
    charts.append(bar_chart("How answers are written", labels, _series(names, by_run, ends), note=note))
    groups = [name for name in statistics[0].groups if all(name in one.groups for one in statistics)]
    charts += [_group_chart(name, names, [one.groups[name] for one in statistics]) for name in groups]
    return ["<h2>Distribution</h2>", f'<div class="charts">{"".join(charts)}</div>']


def _group_chart(name: str, names: Sequence[str], groups: Sequence[dict[str, Summary]]) -> str:
    labels = list(groups[0])
    values = [[_of(one, label, lambda summary: summary.metrics[SHOWN], math.nan) for label in labels] for one in groups]
    ends = [[_of(one, label, lambda summary: summary.intervals[SHOWN], (0.0, 0.0)) for label in labels] for one in groups]
    counts = ", ".join(f"{label}: {groups[0][label].samples}" for label in labels)
    shown = [label.removesuffix(" s").removesuffix(" %") for label in labels]
    unit = " (seconds)" if labels[0].endswith(" s") else " (percent)" if labels[0].endswith(" %") else ""
    title = f"{SHOWN} by {GROUPS.get(name, name)}{unit}"
    return bar_chart(title, shown, _series(names, values, ends), percent, f"samples: {counts}")


def _of(group: dict[str, Summary], label: str, read, missing):
    return read(group[label]) if label in group else missing


def _series(names: Sequence[str], values: Sequence[Sequence[float]], intervals=None) -> list[Series]:
    ends = intervals or [None] * len(values)
    return [Series(name, *rest) for name, *rest in zip(names, values, ends, strict=True)]


def _failures(runs: Sequence[Evaluated], names: Sequence[str]) -> str:
    counts = [count_failures(run.predictions) for run in runs]
    rows = [
        (f"{kind}: {said}", *(str(one[kind]) for one in counts))
        for kind, said in FAILURES.items()
        if any(one[kind] for one in counts)
    ]
    if not rows:
        return "<h2>Failures</h2><p>none: each sample has an answer that can be read</p>"
    return "<h2>Failures</h2>" + table(["reason", *names], rows, "samples without an answer")


_GALLERY = """<h2 id="samples">Samples</h2>
<p class="taro-legend">bar: from no overlap <span class="swatch scores"></span> \
to the whole truth; shaded: the truth; ▲ a time that the reasoning names{frames}</p>
<form class="controls" id="controls" aria-label="which samples are shown"></form>
<p id="count" class="faint" role="status"></p>
<div class="pages" data-pages></div>
<div class="cards two" id="gallery"></div>
<div class="pages" data-pages></div>
<noscript><p class="warning">The samples are shown by a script, and scripts are off here.</p></noscript>"""


def main(arguments: list[str] | None = None) -> Path:
    """Write the page; returns where it is."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of an evaluation")
    parser.add_argument("second", type=Path, nargs="?", help="of another one, of the same samples")
    parser.add_argument("--output", type=Path, help=f"the page; {REPORT} in the (last) folder unless given")
    parser.add_argument("--annotations", type=Path, help="the samples file, where it is no more where it was")
    parser.add_argument("--video_root", type=Path, help="folder of the videos, likewise")
    parser.add_argument("--strips", type=at_least(0), default=STRIPS, help="videos whose frames are shown, at most; 0: none")
    parser.add_argument("--strict", action="store_true", help="R1@m counts IoU > m; as the evaluation did unless given")
    parser.add_argument("--fiftyone", type=Path, metavar="FOLDER", help="write truth and predictions for FiftyOne there, too")
    args = parser.parse_args(arguments)
    folders = [args.folder, *([args.second] if args.second else [])]
    runs = [read_evaluation(folder, args.annotations, args.video_root) for folder in folders]
    page, remarks = make_report_page(runs, args.strict or runs[0].strict, args.strips)
    output = args.output or folders[-1] / REPORT
    write_page(output, page)
    for remark in remarks:
        print(f"warning: {remark}")
    print(f"the report is {output} ({len(page) / 2**20:.1f} MB)")
    if args.fiftyone:
        lines = export(runs, args.fiftyone)
        print(f"truth and predictions for FiftyOne are in {args.fiftyone}; load them there with", *lines, sep="\n")
    return output


if __name__ == "__main__":
    with clean_exit():
        main()
