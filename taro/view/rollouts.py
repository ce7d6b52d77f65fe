"""The rollouts of a training run, by step and by prompt, as one page.

    python -m taro.view.rollouts outputs/tiny [--steps 1-50] [--prompt ID] [--output rollouts.html]

Means are those of all steps that are read; completions are kept of as many steps as one page can hold, evenly spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from taro.command_line import Parser, at_least
from taro.data.samples import Sample, SampleError
from taro.errors import clean_exit
from taro.messages import first_names
from taro.rl.rollout_log import Record, RecordedGroup, RolloutLogError, find_samples, list_steps, read_groups
from taro.view.charts import Series, line_chart, number, percent
from taro.view.gallery import shown_spans
from taro.view.html import escape, make_page, write_page
from taro.view.strips import make_strips
from taro.view.timeline import ViewError, axis_length, find_times

PAGE = 10  # groups that are shown at once
STRIPS = 40
MOST_BYTES = 16 * 2**20  # of records in a page
NAME = "rollouts.html"


@dataclass(frozen=True)
class StepMeans:
    """Of the completions of a step."""

    step: int
    rewards: dict[str, float]
    iou: float
    without_spread: float  # share of groups whose completions are all worth the same
    constructed: float  # share of completions
    finished: float

    @classmethod
    def of(cls, step: int, groups: Sequence[RecordedGroup]) -> StepMeans:
        records = [record for group in groups for record in group.records]
        names = dict.fromkeys(name for record in records for name in record.rewards)
        return cls(
            step=step,
            rewards={name: fmean(record.rewards.get(name, 0.0) for record in records) for name in names},
            iou=fmean(record.iou for record in records),
            without_spread=fmean(group.spread == 0 for group in groups),
            constructed=fmean(record.constructed for record in records),
            finished=fmean(record.finished for record in records),
        )


@dataclass(frozen=True)
class Run:
    """What is shown of a run."""

    name: str
    means: list[StepMeans]  # of each step that was read
    groups: list[RecordedGroup]  # those that are kept
    steps: int  # of which groups are kept
    samples: dict[str, Sample]
    remarks: tuple[str, ...]


def read_run(folder: Path, steps: tuple[int, int] | None = None, prompt: str | None = None) -> Run:
    """
    Args:
        folder: of the run.
        steps: first and last that are read; all unless given.
        prompt: id of the only sample that is read.

    Raises:
        ViewError: there are no such rollouts.
        RolloutLogError: there are none, or lines that can't be read.
    """
    files = list_steps(folder)
    found = {step: paths for step, paths in files.items() if steps is None or steps[0] <= step <= steps[1]}
    if not found:
        raise ViewError(f"--steps {steps[0]}-{steps[1]}: the run has steps {min(files)} to {max(files)}")
    kept = set(found) if prompt is not None else spread_steps(_sizes(found), MOST_BYTES)
    means, groups, ids = [], [], {}
    for step, paths in found.items():
        own = read_groups(step, paths)
        ids.update(dict.fromkeys(group.records[0].id for group in own))
        own = [group for group in own if prompt in (None, group.records[0].id)]
        if own:
            means.append(StepMeans.of(step, own))
            groups += own if step in kept else []
    if not means:
        known = f"there are {first_names(ids)}" if ids else "the files are empty"
        raise ViewError(f"{folder}: no rollouts{'' if prompt is None else f' of --prompt {prompt}'} in these steps; {known}")
    samples, remarks = {}, ()
    try:
        samples = find_samples(folder)
    except (RolloutLogError, SampleError) as error:
        remarks = (f"axes end after the last time on them, and there are no frames: {error}",)
    if len(kept) < len(found):
        part = f"completions of {len(kept)} of {len(found)} steps are in this page, evenly spread"
        remarks += (f"{part}; --steps and --prompt choose others",)
    return Run(folder.resolve().name, means, groups, len(kept), samples, remarks)


def _sizes(files: dict[int, list[Path]]) -> dict[int, int]:
    """Bytes of each step's files."""
    return {step: sum(path.stat().st_size for path in paths) for step, paths in files.items()}


def spread_steps(sizes: dict[int, int], most: int) -> set[int]:
    """As many steps as have at most so many bytes together, evenly spread, the first one among them."""
    steps = list(sizes)
    for each in range(1, len(steps) + 1):
        chosen = steps[::each]
        if sum(sizes[step] for step in chosen) <= most:
            return set(chosen)
    return {steps[0]}


def make_rollouts_page(run: Run, strips: int = STRIPS) -> str:
    """A whole page; `strips`: at most so many videos are shown as frames."""
    names = list(dict.fromkeys(name for one in run.means for name in one.rewards))
    met: dict[str, list[int]] = {}
    for place, group in enumerate(run.groups):
        met.setdefault(group.records[0].id, []).append(place)
    often = sorted(met, key=lambda id: -len(met[id]))
    number_of = {id: place for place, id in enumerate(often)}
    found = make_strips((run.samples[id] for id in often if id in run.samples), strips)
    data = {
        "page": PAGE,
        "rewards": names,
        "most": max((record.reward for group in run.groups for record in group.records), default=0.0),
        "prompts": [_prompt(run, id, met[id]) for id in often],
        "groups": [_group(group, number_of, names) for group in run.groups],
        "pictures": found.pictures,
        "strips": found.of_sample,
    }
    last = run.means[-1].step
    body = [
        f"<h1>{escape(run.name)}</h1>",
        f'<p class="faint">steps {run.means[0].step} to {last}, {len(run.groups)} groups of {run.steps} steps are shown</p>',
        *(f'<p class="warning">{escape(remark)}</p>' for remark in (*run.remarks, *found.remarks())),
        f'<h2>What was rewarded</h2><div class="charts">{"".join(_charts(run, names))}</div>',
        _GROUPS,
    ]
    return make_page(f"rollouts of {run.name}", "\n".join(body), data, "rollouts")


def _charts(run: Run, names: Sequence[str]) -> list[str]:
    steps = [float(one.step) for one in run.means]
    parts = [Series(name, [one.rewards.get(name, math.nan) for one in run.means]) for name in names]
    shares = {
        "no spread: nothing to learn": [one.without_spread for one in run.means],
        "constructed": [one.constructed for one in run.means],
        "finished": [one.finished for one in run.means],
    }
    ious = [Series("IoU", [one.iou for one in run.means])]
    return [
        line_chart("Rewards by part, mean of a step", steps, parts, number, "step"),
        line_chart("IoU with the truth, mean of a step", steps, ious, number, "step"),
        line_chart("Shares of groups and completions", steps, [Series(*one) for one in shares.items()], percent, "step"),
    ]


def _prompt(run: Run, id: str, places: Sequence[int]) -> dict[str, Any]:
    groups = [run.groups[place] for place in places]
    first = groups[0].records[0]
    spans = [*first.spans, *(record.answer for group in groups for record in group.records if record.answer)]
    duration = run.samples[id].duration if id in run.samples else math.nan
    row = {"id": id, "q": first.query, "t": [list(span) for span in first.spans], "times": len(groups)}
    return row | {"d": round(axis_length(duration, spans), 3)}


def _group(group: RecordedGroup, number_of: dict[str, int], names: Sequence[str]) -> dict[str, Any]:
    rows = sorted(group.records, key=lambda record: -record.reward)
    return {"s": group.step, "p": number_of[rows[0].id], "rows": [_row(record, names) for record in rows]}


def _row(record: Record, names: Sequence[str]) -> dict[str, Any]:
    return {
        "a": record.answer and list(record.answer),
        **shown_spans(record.task, record.completion),
        "i": round(record.iou, 4),
        "r": [_part(record, name) for name in names],
        "t": round(record.reward, 4),
        "w": round(record.weight, 4),
        "g": None if record.temporal_gap is None else round(record.temporal_gap, 4),
        "k": int(record.constructed),
        "f": int(record.finished),
        "c": record.completion,
        "n": [end for time in find_times(record.completion) for end in (time.start, time.end)],
    }


def _part(record: Record, name: str) -> float | None:
    """One of its rewards; the temporal one is 0 where no gap was measured, too, and is none then."""
    unmeasured = name == "temporal" and record.temporal_gap is None
    return None if unmeasured else round(record.rewards.get(name, 0.0), 4)


_GROUPS = """<h2 id="groups">Groups</h2>
<p class="taro-legend">bar: from no reward <span class="swatch scores"></span> to the run's largest; shaded: the truth; \
▲ a time that the reasoning names. With one prompt chosen, the words of the best \
reasoning that the earlier one of the prompt did not have are <b>marked</b>.</p>
<form class="controls" id="controls" aria-label="which groups are shown"></form>
<p id="count" class="faint" role="status"></p>
<div class="pages" data-pages></div>
<div class="cards" id="gallery"></div>
<div class="pages" data-pages></div>
<noscript><p class="warning">The groups are shown by a script, and scripts are off here.</p></noscript>"""


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """`5` or `1-50`.

    Raises:
        ViewError: anything else.
    """
    if text is None:
        return None
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ViewError(f"--steps {text}: give a step, or the first and the last one, as in 1-50")
    return int(first), int(last)


def main(arguments: list[str] | None = None) -> Path:
    """Write the page; returns where it is."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of a run, as outputs/tiny")
    parser.add_argument("--output", type=Path, help=f"the page; {NAME} in the folder unless given")
    parser.add_argument("--steps", help="only this step, or these: 1-50")
    parser.add_argument("--prompt", metavar="ID", help="only this sample")
    parser.add_argument("--strips", type=at_least(0), default=STRIPS, help="videos whose frames are shown, at most; 0: none")
    args = parser.parse_args(arguments)
    run = read_run(args.folder, parse_steps(args.steps), args.prompt)
    page = make_rollouts_page(run, args.strips)
    output = args.output or args.folder / NAME
    write_page(output, page)
    for remark in run.remarks:
        print(f"warning: {remark}")
    print(f"the rollouts are in {output} ({len(page) / 2**20:.1f} MB)")
    return output


if __name__ == "__main__":
    with clean_exit():
        main()
