"""The rows that `taro.evaluation.qvhighlights` scores: read, checked, and made from a model's answers.

Letters: `M` true windows, `N` predicted windows, `K` clips of a video, `R` raters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from taro.errors import TaroError
from taro.jsonl import NotJSON, read_lines
from taro.messages import MISSING, describe_fault, first_names, list_lines, shorten
from taro.rows import Number, Pair, Whole, read_fields
from taro.spans import Span

Row = dict[str, Any]
Window = tuple[float, float, float]  # start and end in seconds, score

CLIP_SECONDS = 2
RATERS = 3

_WINDOWS, _SALIENCY = "pred_relevant_windows", "pred_saliency_scores"
_NO_SPAN = (0.0, 0.0)
_NAMES_SHOWN = 5


class SubmissionError(TaroError):
    """Rows that can't be scored; the message names every bad one (the first 20 in full)."""


@dataclass(frozen=True)
class Query:
    """What is scored of one query; the first two are None where the submission has no windows, the others where it has no
    saliency scores."""

    true_windows: tuple[Span, ...] | None  # M
    windows: tuple[Window, ...] | None  # N, as listed
    ratings: np.ndarray | None  # (R, K)
    saliency: np.ndarray | None  # one score a clip, as submitted: not always K


def read_rows(flag: str, path: Path) -> list[Row]:
    """The rows of a file with one JSON object a line, which was given with `flag`.

    Raises:
        SubmissionError: no such file, or lines that are not JSON.
    """
    if not path.is_file():
        raise SubmissionError(f"{flag} {path}: no such file; allowed: a file with one JSON object a line")
    rows, faults = [], []
    for number, value in read_lines(path):
        if isinstance(value, NotJSON):
            faults.append(f"{flag} {path}, line {number}: {value}; allowed: one JSON object a line")
        else:
            rows.append(value)
    _raise_if_any(faults)
    return rows


def read_queries(predictions: Sequence[Row], truth: Sequence[Row]) -> list[Query]:
    """The queries of the truth, in its order, each with what the submission says of it.

    Raises:
        SubmissionError: bad rows.
    """
    faults: list[str] = []
    submission, benchmark = _Source("submission", "qid", faults), _Source("truth", "qid", faults)
    answers, true = _by_key(submission, predictions), _by_key(benchmark, truth)
    faults += _differences(submission, answers, true)
    has_windows, has_saliency = (any(name in row for row in answers.values()) for name in (_WINDOWS, _SALIENCY))
    if answers and not (has_windows or has_saliency):
        faults.append(f"submission: no row has {_WINDOWS} or {_SALIENCY}; allowed: either or both, the same in all rows")
    queries = []
    for qid in (qid for qid in true if qid in answers):
        windows = true_windows = ratings = saliency = None
        if has_windows:
            true_windows = benchmark.read(true[qid], _TrueWindows).get("relevant_windows")
            windows = submission.read(answers[qid], _Windows).get(_WINDOWS)
        if has_saliency:
            ratings = _make_ratings(benchmark, true[qid])
            saliency = np.array(submission.read(answers[qid], _Saliency).get(_SALIENCY, ()))
        queries.append(Query(true_windows, windows, ratings, saliency))
    _raise_if_any(faults)
    return queries


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
    source = _Source("predictions", "id", faults)
    answers = _by_key(source, predictions)
    true = {str(qid): row for qid, row in _by_key(_Source("truth", "qid", faults), truth).items()}
    faults += _differences(source, answers, true)
    spans = {key: source.read(row, _Answer).get("answer") for key, row in answers.items()}
    _raise_if_any(faults)
    spans = {key: span if span is not None and span[0] < span[1] else _NO_SPAN for key, span in spans.items()}
    return [
        {name: row[name] for name in ("qid", "query", "vid") if name in row} | {_WINDOWS: [[*spans[key], 1.0]]}
        for key, row in true.items()
    ]


# ---- Rows and fields ----


_Window = Annotated[tuple[Number, Number, Number], Field(description="[start, end, score], three finite numbers (seconds)")]
_Ratings = Annotated[tuple[Number, Number, Number], Field(description=f"{RATERS} finite numbers")]


class _TrueWindows:
    relevant_windows: Annotated[tuple[Pair, ...], Field(min_length=1, description="[[start, end], ...], one or more (seconds)")]


class _TrueHighlights:
    duration: Annotated[Number, Field(ge=CLIP_SECONDS, description=f"a finite number from {CLIP_SECONDS} (seconds)")]
    relevant_clip_ids: Annotated[tuple[Whole, ...], Field(description="a list of whole numbers")]
    saliency_scores: Annotated[
        tuple[_Ratings, ...], Field(description=f"a list with {RATERS} ratings for each of the relevant_clip_ids")
    ]


class _Windows:
    pred_relevant_windows: Annotated[tuple[_Window, ...], Field(description="[[start, end, score], ...] (seconds)")]


class _Saliency:
    pred_saliency_scores: Annotated[
        tuple[Number, ...],
        Field(min_length=1, description=f"a list of finite numbers, one for each {CLIP_SECONDS} seconds of the video"),
    ]


class _Answer:
    answer: Annotated[Pair | None, Field(description="null, or [start, end], two finite numbers (seconds)")]


@dataclass(frozen=True)
class _Source:
    """Rows by their key; what is wrong with them is noted in `faults`."""

    name: str
    key: str
    faults: list[str]

    def note(self, row: Row, fault: str) -> None:
        self.faults.append(f"{self.name}, {self.key} {shorten(row[self.key])}: {fault}")

    def read(self, row: Row, kind: type) -> dict[str, Any]:
        """The fields that can be read."""
        values, problems = read_fields(kind, row)
        for problem in problems.values():
            self.note(row, problem)
        return values


def _make_ratings(source: _Source, row: Row) -> np.ndarray | None:
    """(R, K): the ratings of the clips that are listed, 0 for the others; None where a field is bad."""
    values = source.read(row, _TrueHighlights)
    if len(values) < len(_TrueHighlights.__annotations__):
        return None
    ids, scores, clips = values["relevant_clip_ids"], values["saliency_scores"], int(values["duration"] / CLIP_SECONDS)
    if not all(0 <= clip < clips for clip in ids):
        allowed = f"a list of whole numbers from 0 to {clips - 1}"
        return source.note(row, describe_fault("relevant_clip_ids", ids, allowed))
    if len(scores) != len(ids):
        allowed = f"a list with {RATERS} ratings for each of the {len(ids)} relevant_clip_ids"
        return source.note(row, describe_fault("saliency_scores", row["saliency_scores"], allowed))
    ratings = np.zeros((RATERS, clips))
    ratings[:, np.array(ids, dtype=np.int64)] = np.array(scores, dtype=np.float64).reshape(len(ids), RATERS).T
    return ratings


def _by_key(source: _Source, rows: Sequence[Row]) -> dict[str | int, Row]:
    found: dict[str | int, Row] = {}
    for number, row in enumerate(rows, start=1):
        place, key = f"{source.name}, row {number}", source.key
        value = row.get(key, MISSING) if isinstance(row, dict) else None
        if not isinstance(row, dict):
            source.faults.append(describe_fault(place, row, "an object with the fields of a row"))
        elif isinstance(value, bool) or not isinstance(value, str | Integral):
            source.faults.append(describe_fault(f"{place}: {key}", value, "a whole number or text"))
        elif value in found:
            source.faults.append(f"{place}: {key}: got {shorten(value)} again; allowed: one row for each {key}")
        else:
            found[value] = row
    if not rows:
        source.faults.append(f"{source.name}: got no rows; allowed: one or more")
    return found


def _differences(source: _Source, answers: Iterable[str | int], true: Iterable[str | int]) -> Iterator[str]:
    for here, there, where in ((true, answers, "truth"), (answers, true, source.name)):
        lone = [shorten(value) for value in here if value not in there]
        if lone:
            shown = first_names(lone, _NAMES_SHOWN)
            yield f"{source.key}: got {len(lone)} in the {where} alone: {shown}; allowed: the same in {source.name} and truth"


def _raise_if_any(faults: Sequence[str]) -> None:
    if faults:
        raise SubmissionError(list_lines(f"{len(faults)} {'faults' if len(faults) > 1 else 'fault'} to mend:", faults))
