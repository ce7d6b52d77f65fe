"""The scores of QVHighlights, as its official scorer gives them.

    python -m taro.evaluation.qvhighlights --submission F.jsonl --truth F.jsonl [--output F.json]

`MR` is moment retrieval: windows of a video that answer a query. `HL` is highlight detection: a score for each clip of 2
seconds. The rules are those of `standalone_eval` in github.com/jayleicn/moment_detr (Lei et al., 2021, arXiv 2107.09609).

Letters: `T` IoU levels, `N` predicted windows, `M` true windows, `K` clips of a video, `R` raters, `L` rating levels,
`U` different scores among a video's clips.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taro.command_line import Parser
from taro.errors import clean_exit
from taro.evaluation.qvhighlights_rows import (
    Highlights,
    Moments,
    Row,
    SubmissionError,
    make_submission,
    read_queries,
    read_rows,
)
from taro.files import write_json
from taro.spans import Span, best_iou

__all__ = ["SubmissionError", "main", "make_submission", "score_submission"]

IOU_LEVELS = np.arange(50, 100, 5) / 100
R1_LEVELS = (0.5, 0.7)
MAX_WINDOWS = 10  # of a query, for mAP
LENGTHS = {"full": (-math.inf, math.inf), "short": (0, 10), "middle": (10, 30), "long": (30, 150)}  # above, up to; seconds
RATING_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}  # the lowest rating of a highlight


def score_submission(predictions: Sequence[Row], truth: Sequence[Row], *, strict_r1: bool = False) -> dict[str, float]:
    """The `brief` scores of the official scorer, in percent with two decimals.

    `MR-*` are there if the submission has windows, `HL-*` if it has saliency scores. MR-mAP of a length that no true window
    has is nan.

    Three inputs that the official scorer does not take, or takes by accident, count as misses: a query with an empty list of
    windows (it stops there), and windows, predicted or true, that are reversed or empty.

    Args:
        predictions: for each query `qid` with `pred_relevant_windows`, a list of [start, end, score] in seconds, the best
            first, with `pred_saliency_scores`, a number for each 2 seconds of the video, or with both.
        truth: the benchmark's rows, with the same `qid`s: `relevant_windows` for MR, and `duration`, `relevant_clip_ids`
            and `saliency_scores` for HL.
        strict_r1: R1 counts IoU > level, as Time-R1's evaluation does, and not IoU >= level.

    Raises:
        SubmissionError: bad rows.
    """
    moments, highlights = read_queries(predictions, truth)
    scores = _score_moments(moments, strict_r1) if moments else {}
    scores |= _score_highlights(highlights) if highlights else {}
    return {name: round(100 * float(score), 2) for name, score in scores.items()}


# ---- Moments ----


def _score_moments(queries: Sequence[Moments], strict_r1: bool) -> dict[str, float]:
    precisions = {name: _mean_average_precisions(queries, *limits) for name, limits in LENGTHS.items()}  # each (T,)
    at_level = dict(zip(IOU_LEVELS.tolist(), precisions["full"], strict=True))
    first = [query.pred_relevant_windows[0][:2] if query.pred_relevant_windows else None for query in queries]  # as listed
    ious = np.array([best_iou(span, query.relevant_windows) for span, query in zip(first, queries, strict=True)])
    reaches = operator.gt if strict_r1 else operator.ge
    return {
        **{f"MR-full-R1@{level}": np.mean(reaches(ious, level)) for level in R1_LEVELS},
        **{f"MR-{name}-mAP": np.mean(values) for name, values in precisions.items()},
        **{f"MR-full-mAP@{level}": at_level[level] for level in (0.5, 0.75)},
    }


def _mean_average_precisions(queries: Sequence[Moments], above: float, up_to: float) -> np.ndarray:
    """Means (T,) over the queries with true windows of such a length; other true windows are as if they were not there."""
    values = []
    for query in queries:
        true = [(start, end) for start, end in query.relevant_windows if above < end - start <= up_to]
        if true:
            values.append(_window_precisions(query.pred_relevant_windows, true))
    return np.mean(values, axis=0) if values else np.full(len(IOU_LEVELS), math.nan)


def _window_precisions(windows: Sequence[tuple[float, float, float]], true: Sequence[Span]) -> np.ndarray:
    """Average precisions (T,) of one query's windows, interpolated as in PASCAL VOC 2010: at each hit the best precision
    from there on, summed and divided by the number of true windows."""
    if not windows:
        return np.zeros(len(IOU_LEVELS))
    ranked = sorted(windows[:MAX_WINDOWS], key=lambda window: -window[2])  # the first ones listed, not the best ones
    hits = _match(_pairwise_iou(np.array(ranked)[:, :2], np.array(true)))  # (T, N)
    precision = hits.cumsum(axis=1) / np.arange(1, len(ranked) + 1)  # (T, N)
    return (_best_from_here_on(precision) * hits).sum(axis=1) / len(true)


def _match(iou: np.ndarray) -> np.ndarray:
    """Which windows hit, (T, N), from their IoU with the true windows, (N, M).

    In turn, each takes the true window with the largest IoU that is still free at that level, if it reaches the level. Of
    equal ones it takes the last.
    """
    iou = iou[:, ::-1]  # argmax takes the first
    each_level = np.arange(len(IOU_LEVELS))
    free = np.ones((len(IOU_LEVELS), iou.shape[1]), dtype=bool)  # (T, M)
    hits = np.zeros((len(IOU_LEVELS), len(iou)), dtype=bool)  # (T, N)
    for rank, values in enumerate(iou):
        best = np.where(free, values, -1.0).argmax(axis=1)  # (T,)
        hits[:, rank] = free[each_level, best] & (values[best] >= IOU_LEVELS)
        free[each_level, best] &= ~hits[:, rank]
    return hits


def _pairwise_iou(spans: np.ndarray, true: np.ndarray) -> np.ndarray:
    """`temporal_iou` of all pairs, (N, 2) and (M, 2) to (N, M), but rounded as in the official scorer's mAP.

    It takes the union as the sum of the lengths without the intersection. On paper that is the same; in floats it decides
    about one in a thousand answers with one decimal, those whose IoU is just a level.
    """
    starts, ends = spans[:, None, 0], spans[:, None, 1]  # (N, 1)
    intersection = np.minimum(ends, true[:, 1]) - np.maximum(starts, true[:, 0])  # (N, M)
    union = (ends - starts) + (true[:, 1] - true[:, 0]) - intersection  # (N, M)
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def _best_from_here_on(precision: np.ndarray) -> np.ndarray:
    """The largest value at or after each place of the last axis."""
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


# ---- Highlights ----


def _score_highlights(queries: Sequence[Highlights]) -> dict[str, float]:
    levels = np.array([*RATING_LEVELS.values()])[:, None, None]
    hits, precisions = [], []
    for query in queries:
        positive, saliency = query.ratings >= levels, np.array(query.pred_saliency_scores)  # (L, R, K) and one score a clip
        hits.append(_top_clip_hits(positive, saliency))
        precisions.append(_clip_precisions(positive, saliency).mean(axis=1))
    scores = {}
    for name, precision, hit in zip(RATING_LEVELS, np.mean(precisions, axis=0), np.mean(hits, axis=0), strict=True):
        scores |= {f"HL-min-{name}-mAP": precision, f"HL-min-{name}-Hit1": hit}
    return scores


def _top_clip_hits(positive: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Whether the clip with the largest score, the first of equal ones, is positive for any rater: (L, R, K) to (L,)."""
    top = saliency.argmax()
    if top >= positive.shape[-1]:  # after the end of the video
        return np.zeros(len(positive), dtype=bool)
    return positive[..., top].any(axis=-1)


def _clip_precisions(positive: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Average precisions (L, R) of the scores of a video's clips, cut or padded with 0 to the K clips of `positive`, (L, R, K).

    Precision is taken at each different score, the highest first. The average is over the scores at which positives are
    found, each counted once however many it finds, of the best precision from there on. Without positives it is 0.
    """
    clips = positive.shape[-1]
    scores = np.zeros(clips)
    scores[: len(saliency)] = saliency[:clips]
    order = np.argsort(-scores)
    last_of_equals = np.append(np.diff(scores[order]) != 0, True).nonzero()[0]  # (U,)
    found = positive[..., order].cumsum(axis=-1)[..., last_of_equals]  # (L, R, U)
    finds = np.diff(found, axis=-1, prepend=0) > 0  # (L, R, U)
    best = _best_from_here_on(found / (last_of_equals + 1))  # (L, R, U)
    return (best * finds).sum(axis=-1) / np.maximum(finds.sum(axis=-1), 1)


# ---- Command ----


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print the scores, write them if told to, and return them."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--submission", type=Path, required=True, help="rows of the benchmark's format, or predictions.jsonl of eval.py"
    )
    parser.add_argument("--truth", type=Path, required=True, help="the benchmark's rows, as in highlight_val_release.jsonl")
    parser.add_argument("--output", type=Path, help="file for the scores, as JSON")
    parser.add_argument("--strict_r1", action="store_true", help="R1 counts IoU > level, as Time-R1 does, and not >=")
    args = parser.parse_args(arguments)
    submission, truth = read_rows("--submission", args.submission), read_rows("--truth", args.truth)
    if any(isinstance(row, dict) and "answer" in row and "qid" not in row for row in submission):
        submission = make_submission(submission, truth)
    scores = score_submission(submission, truth, strict_r1=args.strict_r1)
    for name, score in scores.items():
        print(f"{name:<22}{score:6.2f}")
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        values = {name: None if math.isnan(score) else score for name, score in scores.items()}
        write_json(args.output, values)
    return scores


if __name__ == "__main__":
    with clean_exit():
        main()
