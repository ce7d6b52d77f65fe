"""Which samples to train on, by the IoU in [0, 1] that a model's answers have with the truth: kept in the samples' rows, or
found in the rollouts of a training run.

Run as `python -m taro.prepare.difficulty select`; the whole way is in docs/data.md.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from taro.command_line import Parser
from taro.data.difficulties import DIFFICULTY, mean_ious
from taro.data.samples import Sample, load_samples, save_like
from taro.errors import TaroError
from taro.jsonl import read_rows
from taro.messages import first_names, list_lines, list_problems
from taro.prepare.paths import path_problems
from taro.seeds import stable_seed

Pair = tuple[float, float]

# Keys of a row that are not fields of a sample.
IOUS = "ious"  # of each answer
FAILURE = "difficulty_failure"  # why there is neither

BINS = [k / 10 for k in range(11)]
BAR = 40  # characters
_ROLLOUT_KEYS = {"id", "query", "constructed", "iou"}


class SelectionError(TaroError):
    """Nothing can be selected as asked; nothing was written."""


@dataclass(frozen=True)
class SelectionSettings:
    """The flags of the command, which `parse` describes."""

    input: Path
    output: Path
    video_root: Path | None
    rollouts: Path | None
    range: Pair | None
    gaussian: Pair | None
    count: int | None
    seed: int
    keep_unscored: bool


def select(settings: SelectionSettings) -> str:
    """Write the samples that are worth training on; says which in lines.

    Raises:
        SelectionError: settings that can't work, all named; or no sample is left.
        DifficultyError: difficulties that can't be read.
        SampleError: rows that can't be read.
        ResumeError: rollouts that can't be read.
    """
    if problems := list(find_problems(settings)):
        raise SelectionError(list_problems("can't select:", problems))
    samples = load_samples(settings.input, video_root=settings.video_root, bad_rows="keep")
    if settings.rollouts is None:
        ious = read_difficulties(samples)
    else:
        found = read_rollouts(settings.rollouts, samples)
        samples = [with_ious(sample, found.get(sample.id, ())) for sample in samples]
        ious = {sample.id: fmean(found[sample.id]) for sample in samples if sample.id in found}
    kept = choose(ious, settings.range, settings.gaussian, settings.count, settings.seed)
    unscored = [sample.id for sample in samples if sample.id not in ious]
    selected = [sample for sample in samples if sample.id in kept or (settings.keep_unscored and sample.id not in ious)]
    if not selected:
        raise SelectionError(f"none of {len(samples)} samples is left; {len(unscored)} have no IoU\n{histogram(ious.values())}")
    save_like(selected, settings.output, settings.input, settings.video_root)
    after = [ious[id] for id in kept]
    means = f", mean IoU {fmean(ious.values()):.3f} before" + (f", {fmean(after):.3f} after" if after else "")
    lines = [f"{settings.output}: {len(selected)} of {len(samples)} samples{means}"]
    if unscored:
        done = "kept" if settings.keep_unscored else "left out (--keep_unscored keeps them)"
        lines.append(f"without an IoU, and {done}: {len(unscored)} ({first_names(unscored)})")
    return "\n".join([*lines, histogram(ious.values(), after)])


def choose(
    ious: Mapping[str, float], within: Pair | None, gaussian: Pair | None = None, count: int | None = None, seed: int = 0
) -> set[str]:
    """Ids of the samples in the range (low, high], and of these `count` drawn around the Gaussian's center.

    Raises SelectionError where there are fewer."""
    kept = dict(ious) if within is None else {id: iou for id, iou in ious.items() if within[0] < iou <= within[1]}
    if gaussian is None:
        return set(kept)
    if count > len(kept):
        where = "" if within is None else f" in the range {within[0]:g} to {within[1]:g}"
        raise SelectionError(f"--count {count}: {len(kept)} samples have an IoU{where}; lower it, or widen --range")
    return draw_around(kept, *gaussian, count=count, seed=seed)


def draw_around(ious: Mapping[str, float], center: float, sigma: float, *, count: int, seed: int) -> set[str]:
    """`count` ids drawn without replacement with weights exp(-(iou - center)^2 / (2 sigma^2)).

    By the Gumbel-top-k trick (arXiv 1903.06059): those with the largest log weight + Gumbel noise. The noise follows from
    seed and id, so the draw does not depend on the order of the samples, and a larger count only adds to it.
    """

    def key(id: str) -> float:
        noise = np.random.default_rng(stable_seed("select", seed, id)).gumbel()
        return noise - ((ious[id] - center) / sigma) ** 2 / 2

    return set(sorted(ious, key=key, reverse=True)[:count])


def find_problems(settings: SelectionSettings) -> Iterator[str]:
    """All that can't work, each with the flag to change."""
    roots = [("--video_root", settings.video_root)]
    yield from path_problems([("--input", settings.input)], roots, [("--output", settings.output)])
    if settings.rollouts is not None and not rollout_files(settings.rollouts):
        name = "name a run's folder, outputs/NAME, of a run with rollouts_every 1"
        yield f"--rollouts {settings.rollouts}: has no rollouts/step_*.jsonl; {name}"
    if settings.range is None and settings.gaussian is None:
        yield "give --range LOW HIGH, or --gaussian CENTER SIGMA --count N, or both"
    if settings.range is not None and not settings.range[0] < settings.range[1] <= 1:
        low, high = settings.range
        yield f"--range {low:g} {high:g}: must be IoUs (not percent) with LOW < HIGH <= 1"
    if settings.gaussian is not None:
        center, sigma = settings.gaussian
        if not (0 <= center <= 1 and 0 < sigma < math.inf):
            yield f"--gaussian {center:g} {sigma:g}: needs CENTER from 0 to 1 (IoU, not percent) and SIGMA above 0"
        if settings.count is None or settings.count < 1:
            yield f"--gaussian draws --count samples: give a number from 1, got {settings.count}"
    elif settings.count is not None:
        yield "--count: is of --gaussian; give that, too, or leave it out"


# ---- IoUs ----


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
    """As `mean_ious`. Raises SelectionError where no sample has a difficulty."""
    ious = mean_ious(samples)
    if not ious:
        raise SelectionError(
            f"no sample has a {DIFFICULTY}: score them (python -m taro.prepare.difficulty --model ...), or give --rollouts"
        )
    return ious


def read_rollouts(folder: Path, samples: Sequence[Sample]) -> dict[str, tuple[float, ...]]:
    """IoUs of each sample's group of completions by id, from when training last met it, if only to draw another in its place.
    Completions that start with a constructed path say little about what the model finds by itself: they don't count.

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
    """Those that a run has written so far, in no order: of groups that were trained on, and of those that dynamic sampling has
    drawn others for."""
    found = ((folder / name).glob("step_*.jsonl") for name in ("rollouts", "replaced"))
    return [path for paths in found for path in paths]  # of several ranks: step_000001_rank0.jsonl


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


# ---- Flags ----


def parse(arguments: Sequence[str]) -> SelectionSettings:
    parser = Parser(prog="python -m taro.prepare.difficulty select", description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="samples, JSON lines, with difficulty or with --rollouts")
    parser.add_argument("--output", type=Path, required=True, help="those that are selected")
    parser.add_argument("--video_root", type=Path, help="folder that relative videos start from; the input's own unless given")
    parser.add_argument("--rollouts", type=Path, metavar="RUN_FOLDER", help="takes the IoUs from the rollouts of this run")
    pair = {"type": float, "nargs": 2}
    parser.add_argument("--range", **pair, metavar=("LOW", "HIGH"), help="keep LOW < IoU <= HIGH; LOW -1 keeps IoU 0, too")
    parser.add_argument("--gaussian", **pair, metavar=("CENTER", "SIGMA"), help="then draw --count of them, around CENTER")
    parser.add_argument("--count", type=int, help="of --gaussian")
    parser.add_argument("--seed", type=int, default=0, help="of --gaussian")
    parser.add_argument("--keep_unscored", action="store_true", help="select the samples without an IoU, too")
    return SelectionSettings(**vars(parser.parse_args(arguments)))
