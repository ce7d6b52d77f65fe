"""The rows that `taro.evaluation.qvhighlights` scores: read, checked, and made from a model's answers.

Letters: `M` true windows, `N` predicted windows, `K` clips of a video, `R` raters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from taro.errors import TaroError
from taro.jsonl import NotJSON, read_lines
from taro.messages import MISSING, describe_fault, first_names, list_lines, shorten
from taro.rows import Number, Pair, Whole, read_fields

Row = dict[str, Any]

CLIP_SECONDS = 2
RATERS = 3

_WINDOWS, _SALIENCY = "pred_relevant_windows", "pred_saliency_scores"  # of a submission; all other fields are of the truth
_NAMES_SHOWN = 5

_Window = Annotated[tuple[Number, Number, Number], Field(description="[start, end, score], three finite numbers (seconds)")]
_Ratings = Annotated[tuple[Number, Number, Number], Field(description=f"{RATERS} finite numbers")]
_ALL_RATINGS = Field(description=f"a list with {RATERS} ratings for each of the relevant_clip_ids")
_SALIENCY_OF_CLIPS = f"a list of finite numbers, one for each {CLIP_SECONDS} seconds of the video"


class SubmissionError(TaroError):
    """Rows that can't be scored; the message names every bad one (the first 20 in full)."""


@dataclass(frozen=True)
class Moments:
    """The windows of one query: M true ones, (start, end) in seconds, and N predicted ones with a score, as listed."""

    relevant_windows: Annotated[tuple[Pair, ...], Field(min_length=1, description="[[start, end], ...], one or more (seconds)")]
    pred_relevant_windows: Annotated[tuple[_Window, ...], Field(description="[[start, end, score], ...] (seconds)")]


@dataclass(frozen=True)
class Highlights:
    """The clips of one query's video: what raters said of some, and a predicted score for each, though not always K."""

    duration: Annotated[Number, Field(ge=CLIP_SECONDS, description=f"a finite number from {CLIP_SECONDS} (seconds)")]
    relevant_clip_ids: Annotated[tuple[Whole, ...], Field(description="a list of whole numbers")]
    saliency_scores: Annotated[tuple[_Ratings, ...], _ALL_RATINGS]
    pred_saliency_scores: Annotated[tuple[Number, ...], Field(min_length=1, description=_SALIENCY_OF_CLIPS)]

    @property
    def clips(self) -> int:
        return int(self.duration / CLIP_SECONDS)

    @property
    def ratings(self) -> np.ndarray:
        """(R, K): those of the clips that are listed, 0 for the others."""
        ratings = np.zeros((RATERS, self.clips))
        ratings[:, np.array(self.relevant_clip_ids, int)] = np.array(self.saliency_scores, float).reshape(-1, RATERS).T
        return ratings


class _Answer:
    answer: Annotated[Pair | None, Field(description="null, or [start, end], two finite numbers (seconds)")]


def read_rows(flag: str, path: Path) -> list[Row]:
    """The rows of a file with one JSON object a line, which was given with `flag`.

    Raises:
        SubmissionError: no such file, or lines that are not JSON.
    """
    if not path.is_file():
        raise SubmissionError(f"{flag} {path}: no such file; allowed: a file with one JSON object a line")
    rows = dict(read_lines(path))
    faults = {number: value for number, value in rows.items() if isinstance(value, NotJSON)}.items()
    _raise_if_any([f"{flag} {path}, line {number}: {fault}; allowed: one JSON object a line" for number, fault in faults])
    return [*rows.values()]


def read_queries(predictions: Sequence[Row], truth: Sequence[Row]) -> tuple[list[Moments], list[Highlights]]:
    """Of each query of the truth, in its order, its windows and its clips; none where the submission has none.

    Raises:
        SubmissionError: bad rows.
    """
    faults: list[str] = []
    answers, true = _by_key("submission", "qid", predictions, faults), _by_key("truth", "qid", truth, faults)
    faults += _differences("submission", "qid", answers, true)
    given = set().union(*answers.values())
    kinds = [kind for name, kind in ((_WINDOWS, Moments), (_SALIENCY, Highlights)) if name in given]
    if answers and not kinds:
        faults.append(f"submission: no row has {_WINDOWS} or {_SALIENCY}; allowed: either or both, the same in all rows")
    found: dict[type, list[Any]] = {Moments: [], Highlights: []}
    for qid in (qid for qid in true if qid in answers):
        row = true[qid] | {name: answers[qid].get(name, MISSING) for name in (_WINDOWS, _SALIENCY)}
        for kind in kinds:
            values, problems = read_fields(kind, row)
            if not problems:
                found[kind].append(kind(**values))
                problems = dict(_clip_faults(found[kind][-1], row)) if kind is Highlights else {}
            for name, problem in problems.items():
                source = "submission" if name in (_WINDOWS, _SALIENCY) else "truth"
                faults.append(f"{source}, qid {shorten(qid)}: {problem}")
    _raise_if_any(faults)
    return found[Moments], found[Highlights]


def _clip_faults(video: Highlights, row: Row) -> Iterator[tuple[str, str]]:
    ids = video.relevant_clip_ids
    if not all(0 <= clip < video.clips for clip in ids):
        allowed = f"a list of whole numbers from 0 to {video.clips - 1}"
        yield "relevant_clip_ids", describe_fault("relevant_clip_ids", ids, allowed)
    elif len(video.saliency_scores) != len(ids):
        allowed = f"a list with {RATERS} ratings for each of the {len(ids)} relevant_clip_ids"
        yield "saliency_scores", describe_fault("saliency_scores", row["saliency_scores"], allowed)


def make_submission(predictions: Sequence[Row], truth: Sequence[Row]) -> list[Row]:
    """Rows for `score_submission`, or for the official scorer, from those of an evaluation's `predictions.jsonl`.

    Each query has one window, with the score 1. A model that names one span gives no ranking, so R1 is comparable with the
    published numbers and mAP is not: with M true windows one window has an average precision of at most 1 / M, which makes
    78.86 the best possible MR-full-mAP on the validation set. There are no saliency scores, hence no `HL-*`.

    An answer that is missing, reversed or empty becomes the window [0, 0], which matches nothing.

    Args:
        predictions: rows with `id` and `answer`, the span in seconds or None, for each row of the truth.
        truth: the benchmark's rows; an `id` is the `qid` as text.

    Raises:
        SubmissionError: bad rows.
    """
    faults: list[str] = []
    answers = _by_key("predictions", "id", predictions, faults)
    true = {str(qid): row for qid, row in _by_key("truth", "qid", truth, faults).items()}
    faults += _differences("predictions", "id", answers, true)
    spans = {}
    for key, row in answers.items():
        values, problems = read_fields(_Answer, row)
        faults += [f"predictions, id {shorten(key)}: {problem}" for problem in problems.values()]
        span = values.get("answer")
        spans[key] = span if span is not None and span[0] < span[1] else (0.0, 0.0)
    _raise_if_any(faults)
    return [
        {name: row[name] for name in ("qid", "query", "vid") if name in row} | {_WINDOWS: [[*spans[key], 1.0]]}
        for key, row in true.items()
    ]


def _by_key(source: str, key: str, rows: Sequence[Row], faults: list[str]) -> dict[str | int, Row]:
    """Rows by their key; what is wrong with those that have none of their own is added to `faults`."""
    found: dict[str | int, Row] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{source}, row {number}"
        value = row.get(key, MISSING) if isinstance(row, dict) else None
        if not isinstance(row, dict):
            faults.append(describe_fault(place, row, "an object with the fields of a row"))
        elif isinstance(value, bool) or not isinstance(value, str | int):
            faults.append(describe_fault(f"{place}: {key}", value, "a whole number or text"))
        elif value in found:
            faults.append(f"{place}: {key}: got {shorten(value)} again; allowed: one row for each {key}")
        else:
            found[value] = row
    if not rows:
        faults.append(f"{source}: got no rows; allowed: one or more")
    return found


def _differences(source: str, key: str, answers: Mapping[Any, Row], true: Mapping[Any, Row]) -> Iterator[str]:
    for here, there, where in ((true, answers, "truth"), (answers, true, source)):
        lone = [shorten(value) for value in here if value not in there]
        if lone:
            shown = first_names(lone, _NAMES_SHOWN)
            yield f"{key}: got {len(lone)} in the {where} alone: {shown}; allowed: the same in {source} and truth"


def _raise_if_any(faults: Sequence[str]) -> None:
    if faults:
        raise SubmissionError(list_lines(f"{len(faults)} {'faults' if len(faults) > 1 else 'fault'} to mend:", faults))
