"""Which samples to train on, by the IoU in [0, 1] that a model's answers have with the truth. Run as
`python -m taro.prepare.difficulty select`, where the whole way is told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from taro.command_line import Parser
from taro.data.samples import Sample, load_samples, save_samples
from taro.messages import first_names, list_problems
from taro.prepare.ious import SelectionError, histogram, read_difficulties, read_rollouts, rollout_files, with_ious
from taro.seeds import stable_seed


@dataclass(frozen=True)
class SelectionSettings:
    """The flags of the command.

    Attributes:
        input: samples, JSON lines, with `difficulty` unless `rollouts` is given.
        output: those that are selected.
        video_root: folder that relative videos start from; the input's own unless given.
        rollouts: folder of a training run, whose rollouts give the IoUs.
        range: (low, high): low < IoU <= high is kept.
        gaussian: (center, sigma): after that, `count` samples are drawn around the center.
        count: of them.
        seed: of the draw.
        keep_unscored: samples without an IoU are selected, too.
    """

    input: Path
    output: Path
    video_root: Path | None = None
    rollouts: Path | None = None
    range: tuple[float, float] | None = None
    gaussian: tuple[float, float] | None = None
    count: int | None = None
    seed: int = 0
    keep_unscored: bool = False


@dataclass(frozen=True)
class Selection:
    """What `select` did, in the order of the input.

    Attributes:
        samples: that were written.
        ious: mean IoU by id, of all samples that have one.
        unscored: ids of those that have none.
    """

    samples: tuple[Sample, ...]
    ious: dict[str, float] = field(hash=False)
    unscored: tuple[str, ...]


def select(settings: SelectionSettings) -> Selection:
    """Write the samples that are worth training on.

    Raises:
        SelectionError: settings that can't work, all named; difficulties that can't be read; or no sample is left.
        SampleError: rows that can't be read.
        ResumeError: rollouts that can't be read.
        OSError: a file can't be read or written.
    """
    if problems := find_problems(settings):
        raise SelectionError(list_problems("can't select:", problems))
    samples = load_samples(settings.input, video_root=settings.video_root, bad_rows="keep")
    if settings.rollouts is None:
        ious = read_difficulties(samples)
    else:
        found = read_rollouts(settings.rollouts, samples)
        samples = [with_ious(sample, found.get(sample.id, ())) for sample in samples]
        ious = {sample.id: fmean(found[sample.id]) for sample in samples if sample.id in found}
    kept = choose(ious, settings.range, settings.gaussian, settings.count, settings.seed)
    unscored = tuple(sample.id for sample in samples if sample.id not in ious)
    if settings.keep_unscored:
        kept |= set(unscored)
    selected = tuple(sample for sample in samples if sample.id in kept)
    if not selected:
        raise SelectionError(f"none of {len(samples)} samples is left; {len(unscored)} have no IoU\n{histogram(ious.values())}")
    save_like(selected, settings.output, settings.input, settings.video_root)
    return Selection(selected, ious, unscored)


def choose(
    ious: Mapping[str, float],
    within: tuple[float, float] | None,
    gaussian: tuple[float, float] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> set[str]:
    """Ids of the samples in the range (low, high], and of these `count` drawn around the Gaussian's center.

    Raises:
        SelectionError: there are fewer than `count`.
    """
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


# ---- Output ----


def save_like(samples: Iterable[Sample], output: Path, source: Path, video_root: Path | None) -> None:
    """Write samples that were loaded from `source`. Relative videos stay relative where the same `video_root`, or none, finds
    them again; elsewhere they become absolute."""
    root = source.parent if video_root is None else video_root
    same_root = video_root is not None or output.parent.resolve() == root.resolve()
    save_samples(samples, output, relative_to=root if same_root else None)


def describe(selection: Selection, settings: SelectionSettings) -> str:
    """What was selected, in lines."""
    chosen = {sample.id for sample in selection.samples}
    kept = [iou for id, iou in selection.ious.items() if id in chosen]
    total = len(selection.ious) + len(selection.unscored)
    mean = f", mean IoU {fmean(selection.ious.values()):.3f} before" + (f", {fmean(kept):.3f} after" if kept else "")
    lines = [f"{settings.output}: {len(chosen)} of {total} samples{mean}"]
    if selection.unscored:
        done = "kept" if settings.keep_unscored else "left out (--keep_unscored keeps them)"
        lines.append(f"without an IoU, and {done}: {len(selection.unscored)} ({first_names(selection.unscored)})")
    return "\n".join([*lines, histogram(selection.ious.values(), kept)])


# ---- Command ----


def find_problems(settings: SelectionSettings) -> list[str]:
    """All that can't work, each with the flag to change."""
    found = [] if settings.input.is_file() else [f"--input {settings.input}: no such file"]
    if settings.output.is_dir():
        found.append(f"--output {settings.output}: is a folder; give the name of a file")
    elif settings.output.resolve() == settings.input.resolve():
        found.append(f"--output {settings.output}: is the input; choose another")
    if settings.video_root is not None and not settings.video_root.is_dir():
        found.append(f"--video_root {settings.video_root}: no such folder")
    if settings.rollouts is not None and not rollout_files(settings.rollouts):
        found.append(
            f"--rollouts {settings.rollouts}: has no rollouts/step_*.jsonl; name a run's folder, outputs/NAME, of a run with "
            "rollouts_every 1"
        )
    if settings.range is None and settings.gaussian is None:
        found.append("give --range LOW HIGH, or --gaussian CENTER SIGMA --count N, or both")
    if settings.range is not None and not settings.range[0] < settings.range[1] <= 1:
        low, high = settings.range
        found.append(f"--range {low:g} {high:g}: must be IoUs (not percent) with LOW < HIGH <= 1")
    return found + _gaussian_problems(settings)


def _gaussian_problems(settings: SelectionSettings) -> list[str]:
    if settings.gaussian is None:
        return [] if settings.count is None else ["--count: is of --gaussian; give that, too, or leave it out"]
    center, sigma = settings.gaussian
    found = []
    if not (0 <= center <= 1 and 0 < sigma < math.inf):
        found.append(f"--gaussian {center:g} {sigma:g}: needs CENTER from 0 to 1 (IoU, not percent) and SIGMA above 0")
    if settings.count is None or settings.count < 1:
        found.append(f"--gaussian draws --count samples: give a number from 1, got {settings.count}")
    return found


def parse(arguments: Sequence[str]) -> SelectionSettings:
    parser = Parser(prog="python -m taro.prepare.difficulty select", description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="samples, JSON lines, with difficulty or with --rollouts")
    parser.add_argument("--output", type=Path, required=True, help="those that are selected")
    parser.add_argument("--video_root", type=Path, help="folder that relative videos start from; the input's own unless given")
    parser.add_argument("--rollouts", type=Path, metavar="RUN_FOLDER", help="takes the IoUs from the rollouts of this run")
    numbers = {"type": float, "nargs": 2}
    parser.add_argument("--range", **numbers, metavar=("LOW", "HIGH"), help="keep LOW < IoU <= HIGH; LOW -1 keeps IoU 0, too")
    parser.add_argument(
        "--gaussian", **numbers, metavar=("CENTER", "SIGMA"), help="then draw --count of them, around CENTER"
    )
    parser.add_argument("--count", type=int, help="of --gaussian")
    parser.add_argument("--seed", type=int, default=0, help="of --gaussian")
    parser.add_argument("--keep_unscored", action="store_true", help="select the samples without an IoU, too")
    given = vars(parser.parse_args(arguments))
    return SelectionSettings(**given | {name: given[name] and tuple(given[name]) for name in ("range", "gaussian")})


def main(arguments: Sequence[str]) -> Selection:
    """Select, and print what was."""
    settings = parse(arguments)
    selection = select(settings)
    print(describe(selection, settings))
    return selection
