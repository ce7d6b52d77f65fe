"""The rows that `taro.evaluation.qvhighlights` scores: read, checked, and made from a model's answers.

Letters: `M` true windows, `N` predicted windows, `K` clips of a video, `R` raters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from taro.errors import TaroError
from taro.spans import Span

Row = dict[str, Any]
Window = tuple[float, float, float]  # start and end in seconds, score

CLIP_SECONDS = 2
RATERS = 3

_WINDOWS, _SALIENCY = "pred_relevant_windows", "pred_saliency_scores"
_NO_SPAN = (0.0, 0.0)
_FAULTS_SHOWN = 20
_VALUE_SHOWN = 80  # characters
_MISSING = object()


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
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            faults.append(f"{flag} {path}, line {number}: not JSON ({error}); allowed: one JSON object a line")
    _raise_if_any(faults)
    return rows


def read_queries(predictions: Sequence[Row], truth: Sequence[Row]) -> list[Query]:
    """The queries of the truth, in its order, each with what the submission says of it.

    Raises:
        SubmissionError: bad rows.
    """
    faults: list[str] = []
    answers, true = _by_key("submission", "qid", predictions, faults), _by_key("truth", "qid", truth, faults)
    faults += _differences("qid", "submission", answers, true)
    has_windows, has_saliency = (any(name in row for row in answers.values()) for name in (_WINDOWS, _SALIENCY))
    if answers and not (has_windows or has_saliency):
        faults.append(f"submission: no row has {_WINDOWS} or {_SALIENCY}; allowed: either or both, the same in all rows")
    read_answer, read_truth = _Reader("submission", "qid", faults), _Reader("truth", "qid", faults)
    queries = [
        Query(
            true_windows=read_truth(row, "relevant_windows", _parse_true_windows) if has_windows else None,
            windows=read_answer(answers[qid], _WINDOWS, _parse_windows) if has_windows else None,
            ratings=_read_ratings(read_truth, row) if has_saliency else None,
            saliency=read_answer(answers[qid], _SALIENCY, _parse_saliency) if has_saliency else None,
        )
        for qid, row in true.items()
        if qid in answers
    ]
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
    answers = _by_key("predictions", "id", predictions, faults)
    true = {str(qid): row for qid, row in _by_key("truth", "qid", truth, faults).items()}
    faults += _differences("id", "predictions", answers, true)
    read = _Reader("predictions", "id", faults)
    spans = {key: read(row, "answer", _parse_answer_field) for key, row in answers.items()}
    _raise_if_any(faults)
    return [
        {name: row[name] for name in ("qid", "query", "vid") if name in row} | {_WINDOWS: [[*spans[key], 1.0]]}
        for key, row in true.items()
    ]


# ---- Rows and fields ----


class _Invalid(Exception):
    """A value that its field does not take."""

    def __init__(self, got: Any, allowed: str, where: str = ""):
        super().__init__(f"{where}: got {_shorten(got)}; allowed: {allowed}")


@dataclass(frozen=True)
class _Reader:
    """Reads fields of the rows of one source, and notes the bad ones in `faults`."""

    source: str
    key: str
    faults: list[str]

    def __call__(self, row: Row, name: str, parse: Callable[..., Any], *arguments: Any) -> Any:
        """The parsed value, or None where it is bad."""
        try:
            return parse(row.get(name, _MISSING), *arguments)
        except _Invalid as fault:
            self.faults.append(f"{self.source}, {self.key} {_shorten(row[self.key])}: {name}{fault}")
            return None


def _by_key(source: str, key: str, rows: Sequence[Row], faults: list[str]) -> dict[str | int, Row]:
    found: dict[str | int, Row] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            faults.append(f"{source}, row {number}: got {_shorten(row)}; allowed: an object with the fields of a row")
            continue
        value = row.get(key, _MISSING)
        if isinstance(value, bool) or not isinstance(value, str | Integral):
            faults.append(f"{source}, row {number}: {key}: got {_shorten(value)}; allowed: a whole number or text")
        elif value in found:
            faults.append(f"{source}, row {number}: {key}: got {_shorten(value)} again; allowed: one row for each {key}")
        else:
            found[value] = row
    if not rows:
        faults.append(f"{source}: got no rows; allowed: one or more")
    return found


def _differences(key: str, source: str, answers: Iterable[str | int], true: Iterable[str | int]) -> Iterator[str]:
    for here, there, where in ((true, answers, "truth"), (answers, true, source)):
        lone = [value for value in here if value not in there]
        if lone:
            shown = ", ".join(map(_shorten, lone[:5])) + (", ..." if len(lone) > 5 else "")
            yield f"{key}: got {len(lone)} in the {where} alone: {shown}; allowed: the same in {source} and truth"


def _parse_true_windows(value: Any) -> tuple[Span, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _Invalid(value, "[[start, end], ...], one or more (seconds)")
    for i, window in enumerate(value):
        if not _are_numbers(window, 2):
            raise _Invalid(window, "[start, end], two finite numbers (seconds)", f"[{i}]")
    return tuple((float(start), float(end)) for start, end in value)


def _parse_windows(value: Any) -> tuple[Window, ...]:
    if not isinstance(value, list | tuple):
        raise _Invalid(value, "[[start, end, score], ...] (seconds)")
    for i, window in enumerate(value):
        if not _are_numbers(window, 3):
            raise _Invalid(window, "[start, end, score], three finite numbers (seconds)", f"[{i}]")
    return tuple((float(start), float(end), float(score)) for start, end, score in value)


def _parse_saliency(value: Any) -> np.ndarray:
    if not _are_numbers(value) or not value:
        raise _Invalid(value, f"a list of finite numbers, one for each {CLIP_SECONDS} seconds of the video")
    return np.array(value, dtype=np.float64)


def _read_ratings(read: _Reader, row: Row) -> np.ndarray | None:
    """(R, K): the ratings of the clips that are listed, 0 for the others; None where a field is bad."""
    clips = read(row, "duration", _parse_clip_count)
    ids = None if clips is None else read(row, "relevant_clip_ids", _parse_clip_ids, clips)
    values = None if ids is None else read(row, "saliency_scores", _parse_ratings, len(ids))
    if values is None:
        return None
    ratings = np.zeros((RATERS, clips))
    ratings[:, ids] = values
    return ratings


def _parse_clip_count(value: Any) -> int:
    if not _is_number(value) or value < CLIP_SECONDS:
        raise _Invalid(value, f"a finite number from {CLIP_SECONDS} (seconds)")
    return int(value / CLIP_SECONDS)


def _parse_clip_ids(value: Any, clips: int) -> np.ndarray:
    if not _are_numbers(value) or not all(isinstance(clip, Integral) and 0 <= clip < clips for clip in value):
        raise _Invalid(value, f"a list of whole numbers from 0 to {clips - 1}")
    return np.array(value, dtype=np.int64)


def _parse_ratings(value: Any, count: int) -> np.ndarray:
    """(R, count)."""
    if not isinstance(value, list | tuple) or len(value) != count:
        raise _Invalid(value, f"a list with {RATERS} ratings for each of the {count} relevant_clip_ids")
    for i, ratings in enumerate(value):
        if not _are_numbers(ratings, RATERS):
            raise _Invalid(ratings, f"{RATERS} finite numbers", f"[{i}]")
    return np.array(value, dtype=np.float64).reshape(count, RATERS).T


def _parse_answer_field(value: Any) -> Span:
    if value is None:
        return _NO_SPAN
    if not _are_numbers(value, 2):
        raise _Invalid(value, "null, or [start, end], two finite numbers (seconds)")
    start, end = map(float, value)
    return (start, end) if start < end else _NO_SPAN


def _are_numbers(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list | tuple) and count in (None, len(value)) and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    """Whether `value` is a finite number that a float can hold."""
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


# ---- Messages ----


def _raise_if_any(faults: Sequence[str]) -> None:
    if not faults:
        return
    lines = [f"  {fault}" for fault in faults[:_FAULTS_SHOWN]]
    if len(faults) > _FAULTS_SHOWN:
        lines.append(f"  and {len(faults) - _FAULTS_SHOWN} more")
    raise SubmissionError("\n".join([f"{len(faults)} {'faults' if len(faults) > 1 else 'fault'} to mend:", *lines]))


def _shorten(value: Any) -> str:
    text = "nothing (the field is missing)" if value is _MISSING else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _VALUE_SHOWN else text[: _VALUE_SHOWN - 3] + "..."
