"""What an answer scores that has never seen the video: the row that every table of temporal grounding needs beside it.

    python -m taro.evaluation.blind ANNOTATIONS [--fit TRAINING_ANNOTATIONS] [--json FILE]

A constant answer is the same share of every video: the best one by R1@0.5 and by mIoU of all on a grid of 5 %, fitted on other
samples, and, which is an upper bound for it, on those that are scored. Spans are (start, end) in seconds.

N samples, C candidates, L levels of IoU.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from taro.command_line import Parser, new_file
from taro.data.samples import Sample, load_samples
from taro.errors import clean_exit
from taro.evaluation.scores import IOU_LEVELS
from taro.evaluation.training_file import load_fit
from taro.files import write_json
from taro.messages import print_table
from taro.seeds import stable_seed
from taro.spans import Span, best_iou

STEP = 20  # candidates start and end at multiples of 1 / STEP of the video
LEVEL = 0.5  # of the R1 that a constant answer is fitted to
ROUNDED = "truth, rounded to seconds"  # which is not blind
OWN, TRAINING = "these samples", "training samples"
DRAWS = 20  # random answers to each sample


@dataclass(frozen=True)
class BlindRow:
    """One way to answer without the video.

    Attributes:
        name: what is answered.
        fitted: the samples that a constant answer was fitted on, OWN or TRAINING; None for others.
        shares: of a constant answer, where it starts and ends in the video, in [0, 1].
        r1: share of the samples with an IoU of at least each of IOU_LEVELS.
        miou: mean IoU.
    """

    name: str
    fitted: str | None
    shares: tuple[float, float] | None
    r1: tuple[float, ...]
    miou: float


def blind_rows(samples: Sequence[Sample], fit: Sequence[Sample] | None = None) -> list[BlindRow]:
    """Constant, random and whole-video answers; and, not blind, what rounding to whole seconds leaves of the truth.

    Args:
        samples: those that are scored; one without a duration scores 0.
        fit: training samples that constant answers are fitted on, too, in rows of their own.
    """
    candidates = [(start / STEP, end / STEP) for start, end in combinations(range(STEP + 1), 2)]
    own = np.stack([_constant_ious(samples, candidate) for candidate in candidates])  # (C, N)
    rows = []
    for name, fitted in ((TRAINING, fit), (OWN, samples)):
        if fitted is None:
            continue
        ious = own if fitted is samples else np.stack([_constant_ious(fitted, candidate) for candidate in candidates])
        by_r1, by_miou = int((ious >= LEVEL).mean(1).argmax()), int(ious.mean(1).argmax())
        rows.append(_row(f"best constant by R1@{LEVEL}", own[by_r1], candidates[by_r1], name))
        rows.append(_row("best constant by mIoU", own[by_miou], candidates[by_miou], name))
    drawn = np.array([_random_ious(sample) for sample in samples])  # (N, DRAWS)
    rows.append(_row("a random span", drawn.ravel()))
    rows.append(_row("the whole video", _constant_ious(samples, (0.0, 1.0)), (0.0, 1.0)))
    rows.append(_row(ROUNDED, np.array([_rounded_iou(sample) for sample in samples])))
    return rows


def _row(name: str, ious: np.ndarray, shares: tuple[float, float] | None = None, fitted: str | None = None) -> BlindRow:
    return BlindRow(name, fitted, shares, tuple(float((ious >= level).mean()) for level in IOU_LEVELS), float(ious.mean()))


def _constant_ious(samples: Sequence[Sample], shares: tuple[float, float]) -> np.ndarray:
    """(N,) with the nearest truth."""
    owners = np.repeat(np.arange(len(samples)), [len(sample.spans) for sample in samples])  # (truths,)
    truths = np.array([span for sample in samples for span in sample.spans]).reshape(-1, 2)  # (truths, 2)
    durations = np.array([sample.duration for sample in samples])[owners]
    start, end = shares[0] * durations, shares[1] * durations
    shared = np.minimum(end, truths[:, 1]) - np.maximum(start, truths[:, 0])
    hull = np.maximum(end, truths[:, 1]) - np.minimum(start, truths[:, 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        ious = np.where(shared > 0, shared / hull, 0.0)
    best = np.zeros(len(samples))
    np.maximum.at(best, owners, ious)
    return best


def _random_ious(sample: Sample) -> list[float]:
    """Of spans whose two ends are drawn evenly from the video."""
    draw = random.Random(stable_seed("blind", sample.id)).uniform
    spans = (sorted((draw(0, sample.duration), draw(0, sample.duration))) for _ in range(DRAWS))
    return [best_iou(tuple(span), sample.spans) if sample.spans else 0.0 for span in spans]


def _rounded_iou(sample: Sample) -> float:
    return max((best_iou(_rounded(span), sample.spans) for span in sample.spans), default=0.0)


def _rounded(span: Span) -> Span:
    start, end = span
    return float(round(start)), float(round(end))


def print_blind(rows: Sequence[BlindRow]) -> None:
    """As a table, in percent."""
    lines = []
    for row in rows:
        share = "" if row.shares is None else f"{row.shares[0]:.2f} to {row.shares[1]:.2f}"
        lines.append([row.name, row.fitted or "", share, *(f"{100 * value:.1f}" for value in (*row.r1, row.miou))])
    print_table(["answer", "fitted on", "share of the video", *(f"R1@{level}" for level in IOU_LEVELS), "mIoU"], lines)


def about_fit(file: str | None) -> str:
    """What is to be said below the rows. `file`: of the training samples."""
    training = f"Training samples are those of {file}. " if file else ""
    return f"{training}Constants that were fitted on these samples themselves are an upper bound. The last row is not blind."


def main(arguments: list[str] | None = None) -> list[BlindRow]:
    """Print the rows and return them."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("annotations", help="samples that are scored")
    parser.add_argument("--fit", metavar="FILE", help="samples that the constant answers are fitted on, too, a training set's")
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write the rows there, too")
    args = parser.parse_args(arguments)
    samples = load_samples(args.annotations, bad_rows="keep")
    rows = blind_rows(samples, args.fit and load_fit(args.fit).samples)
    print_blind(rows)
    print(f"{len(samples)} samples. {about_fit(args.fit)}")
    if args.json is not None:
        write_json(args.json, rows)
    return rows


if __name__ == "__main__":
    with clean_exit():
        main()
