"""Samples: one query about one video and the spans that answer it, read from and written to JSON lines.

All times are float seconds in the clip's own clock: 0 is the first frame of the clip, or of the file where there is no
clip.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

BadRows = Literal["error", "drop", "keep"]

# Annotations round to two decimals: spans of ActivityNet Captions end up to 0.01 s after the duration beside them.
TIME_TOLERANCE = 0.02  # seconds
# A clip is cut at frames, so its length and the stated duration need not agree to the last frame.
CLIP_TOLERANCE = 0.5  # seconds

_ROWS_SHOWN = 20
_VALUE_SHOWN = 80  # characters
_MISSING = object()
# Where a row of the public benchmark files holds the fields of a sample.
_BENCHMARK_NAMES = {"id": "qid", "video": "video_file", "spans": "relevant_windows", "clip": "[video_start, video_end]"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caption:
    """What happens from ``start`` to ``end`` (seconds in the clip's clock)."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Sample:
    """One query about one video.

    Attributes:
        id: Unique in its file.
        video: Path of the file, as it can be opened.
        query: The event that is looked for.
        spans: Every (start, end) that answers the query, in seconds of the clip's clock; one or more.
        duration: Length of the clip, or of the file where there is no clip, in seconds.
        clip: The part of the file that is shown, (start, end) in seconds of the file's clock; None for all of it.
        captions: Dense captions, in seconds of the clip's clock; filled by ``taro.data.caption``.
        task: What is asked for.
        extra: Keys of the row that are not named above, as they were.
    """

    id: str
    video: str
    query: str
    spans: tuple[tuple[float, float], ...]
    duration: float
    clip: tuple[float, float] | None = None
    captions: tuple[Caption, ...] = ()
    task: str = "grounding"
    extra: dict[str, Any] = field(default_factory=dict, hash=False)


class SampleError(ValueError):
    """A file of samples that can't be used as it is; the message names every bad row (the first 20 in full)."""


def load_samples(
    path: str | os.PathLike[str],
    *,
    video_root: str | os.PathLike[str] | None = None,
    bad_rows: BadRows = "error",
    limit: int | None = None,
) -> list[Sample]:
    """Read samples from a file with one JSON object a line.

    Two kinds of row are understood, also mixed: the fields of ``Sample``, and rows of the public benchmark files
    (recognised by ``relevant_windows``), whose windows are in the clip's clock already.

    Args:
        path: The annotation file.
        video_root: Folder that relative video paths start from; the annotation file's own unless given.
        bad_rows: ``error`` refuses the file; ``drop`` leaves bad rows out and logs which; ``keep`` is for evaluation,
            where every row asked for counts: rows that are bad only in where their spans lie (zero-length, reversed,
            outside the video) stay as they are, any other fault still refuses the file.
        limit: Read this many rows from the top, and check no others.

    Raises:
        SampleError: A row is bad and ``bad_rows`` doesn't cover it, or no sample is left.
        ValueError: ``bad_rows`` or ``limit`` is not one of the values above.
        OSError: The file can't be read.
    """
    if bad_rows not in ("error", "drop", "keep"):
        raise ValueError(f"bad_rows: got {bad_rows!r}; allowed: error, drop, keep")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit!r}; allowed: a whole number from 1, or null for all rows")
    path = Path(path)
    root = path.parent if video_root is None else Path(video_root)
    rows = _read_rows(path, root, limit)
    bad = [row for row in rows if row.faults]
    fatal = [row for row in bad if bad_rows == "error" or (bad_rows == "keep" and not row.misplaced_spans_only)]
    if fatal:
        raise SampleError(_report(f"{path}: {len(fatal)} of {len(rows)} rows can't be used", fatal) + _remedy(fatal))
    if bad:
        done = "dropped" if bad_rows == "drop" else "kept as they are"
        logger.warning(_report(f"{path}: {len(bad)} of {len(rows)} rows {done}", bad))
    samples = [row.sample for row in rows if row.sample and (bad_rows == "keep" or not row.faults)]
    if not samples:
        raise SampleError(f"{path}: no samples ({len(rows)} rows read, {len(bad)} of them bad); one or more are needed")
    return samples


def save_samples(
    samples: Iterable[Sample],
    path: str | os.PathLike[str],
    *,
    relative_to: str | os.PathLike[str] | None = None,
) -> None:
    """Write samples so that ``load_samples`` gives them back; the file appears whole or not at all.

    Args:
        samples: What to write.
        path: The file; its folder is made where missing.
        relative_to: Write video paths relative to this folder, which is then the ``video_root`` to load them with
            (give the file's own folder to need none). Absolute paths unless given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps(_to_row(sample, relative_to), ensure_ascii=False) + "\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _to_row(sample: Sample, relative_to: str | os.PathLike[str] | None) -> dict[str, Any]:
    row = asdict(sample)
    extra = row.pop("extra")
    row["video"] = os.path.abspath(sample.video) if relative_to is None else os.path.relpath(sample.video, relative_to)
    return {**row, **{name: value for name, value in extra.items() if name not in row}}


# ---- Checking ----


class _Invalid(Exception):
    """A value that its field does not take."""

    def __init__(self, got: Any, allowed: str, where: str = ""):
        super().__init__(f"{where}: got {_shorten(got)}; allowed: {allowed}")


class _Misplaced(_Invalid):
    """A span that is well formed, but empty, reversed or not inside the video."""


@dataclass(frozen=True)
class _Row:
    """One line of the file: its faults, and its sample where it can be built."""

    line: int
    faults: tuple[str, ...]
    sample: Sample | None = None

    @property
    def misplaced_spans_only(self) -> bool:
        """Whether the row is whole but for where its spans lie."""
        return self.sample is not None


def _read_rows(path: Path, root: Path, limit: int | None) -> list[_Row]:
    rows: list[_Row] = []
    line_of_id: dict[str, int] = {}
    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            if limit is not None and len(rows) == limit:
                break
            if text.strip():
                rows.append(_read_row(line, text, root, line_of_id))
    return rows


def _read_row(line: int, text: bytes, root: Path, line_of_id: dict[str, int]) -> _Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        return _Row(line, (f"not JSON ({error}); allowed: one JSON object a line",))
    if not isinstance(row, dict):
        return _Row(line, (f"got {_shorten(row)}; allowed: one JSON object a line",))
    names: dict[str, str] = {}
    if "relevant_windows" in row and "spans" not in row:
        row, names = _from_benchmark(row), _BENCHMARK_NAMES
    return _check_row(line, row, names, root, line_of_id)


def _from_benchmark(row: dict[str, Any]) -> dict[str, Any]:
    """Map a public benchmark row to the fields of a sample; its windows and duration are in the clip's clock too."""
    row = dict(row)
    clip = [row.pop("video_start", None), row.pop("video_end", None)]
    for name in ("id", "video", "spans"):
        if _BENCHMARK_NAMES[name] in row:
            row[name] = row.pop(_BENCHMARK_NAMES[name])
    return {**row, "clip": None if clip == [None, None] else clip}


def _check_row(line: int, row: dict[str, Any], names: dict[str, str], root: Path, line_of_id: dict[str, int]) -> _Row:
    values: dict[str, Any] = {}
    faults: list[str] = []
    misplaced: list[str] = []

    def check(name: str, checker: Callable[..., Any], *args: Any) -> None:
        try:
            values[name] = checker(*args)
        except _Invalid as fault:
            (misplaced if isinstance(fault, _Misplaced) else faults).append(f"{names.get(name, name)}{fault}")

    for name, checker in _FIELD_CHECKERS.items():
        check(name, checker, row.get(name, _DEFAULTS.get(name, _MISSING)))
    if "id" in values:
        check("id", _check_unique, values["id"], line, line_of_id)
    for name, checker in _DURATION_CHECKERS.items():
        if name in values and "duration" in values:
            check(name, checker, values[name], values["duration"])
    if faults:
        return _Row(line, (*faults, *misplaced))
    values["video"] = os.path.join(root, values["video"])
    extra = {name: value for name, value in row.items() if name not in _FIELD_CHECKERS}
    return _Row(line, tuple(misplaced), Sample(**values, extra=extra))


def _check_id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise _Invalid(value, "text that is not empty, or a whole number")
    return str(value)


def _check_text(value: Any, where: str = "") -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Invalid(value, "text that is not empty", where)
    return value


def _check_duration(value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise _Invalid(value, "a finite number above 0 (seconds)")
    return float(value)


def _check_spans(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list) or not value:
        raise _Invalid(value, "[[start, end], ...], one or more (seconds)")
    return tuple(_check_pair(pair, f"[{i}]") for i, pair in enumerate(value))


def _check_pair(value: Any, where: str = "") -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(x) for x in value):
        raise _Invalid(value, "[start, end], two finite numbers (seconds)", where)
    return float(value[0]), float(value[1])


def _check_clip(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    start, end = _check_pair(value)
    if not 0 <= start < end:
        raise _Invalid(value, "null, or 0 <= start < end")
    return start, end


def _check_captions(value: Any) -> tuple[Caption, ...]:
    if not isinstance(value, list):
        raise _Invalid(value, 'a list of {"start", "end", "text"}')
    return tuple(_check_caption(caption, f"[{i}]") for i, caption in enumerate(value))


def _check_caption(value: Any, where: str) -> Caption:
    if not isinstance(value, dict) or not {"start", "end", "text"} <= value.keys():
        raise _Invalid(value, '{"start", "end", "text"}', where)
    start, end = _check_pair([value["start"], value["end"]], where)
    if start >= end:
        raise _Invalid([start, end], "start < end", where)
    return Caption(start, end, _check_text(value["text"], f"{where}.text"))


def _check_unique(value: str, line: int, line_of_id: dict[str, int]) -> str:
    first = line_of_id.setdefault(value, line)
    if first != line:
        raise _Invalid(value, f"an id that no other row has (line {first} has it too)")
    return value


def _check_clip_length(clip: tuple[float, float] | None, duration: float) -> tuple[float, float] | None:
    if clip is not None and abs(clip[1] - clip[0] - duration) > CLIP_TOLERANCE:
        allowed = f"end - start within {CLIP_TOLERANCE} s of the duration, {duration} (the clip's, not the file's)"
        raise _Invalid(list(clip), allowed)
    return clip


def _check_captions_inside(captions: tuple[Caption, ...], duration: float) -> tuple[Caption, ...]:
    for i, caption in enumerate(captions):
        if not _is_inside(caption.start, caption.end, duration):
            raise _Invalid([caption.start, caption.end], f"within [0, {duration}] (the duration)", f"[{i}]")
    return captions


def _check_spans_placed(spans: tuple[tuple[float, float], ...], duration: float) -> tuple[tuple[float, float], ...]:
    for i, (start, end) in enumerate(spans):
        if not (start < end and _is_inside(start, end, duration)):
            raise _Misplaced([start, end], f"start < end within [0, {duration}] (the duration)", f"[{i}]")
    return spans


def _is_inside(start: float, end: float, duration: float) -> bool:
    return all(-TIME_TOLERANCE <= time <= duration + TIME_TOLERANCE for time in (start, end))


def _is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number that a float can hold (JSON has integers without bound)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


_FIELD_CHECKERS: dict[str, Callable[[Any], Any]] = {
    "id": _check_id,
    "video": _check_text,
    "query": _check_text,
    "spans": _check_spans,
    "duration": _check_duration,
    "clip": _check_clip,
    "captions": _check_captions,
    "task": _check_text,
}
_DURATION_CHECKERS: dict[str, Callable[[Any, float], Any]] = {
    "spans": _check_spans_placed,
    "clip": _check_clip_length,
    "captions": _check_captions_inside,
}
_DEFAULTS: dict[str, Any] = {"clip": None, "captions": [], "task": "grounding"}


# ---- Messages ----


def _report(head: str, rows: list[_Row]) -> str:
    lines = [f"  line {row.line}: {'; '.join(row.faults)}" for row in rows[:_ROWS_SHOWN]]
    more = len(rows) - len(lines)
    return "\n".join([f"{head}:", *lines, *([f"  and {more} more"] if more else [])])


def _remedy(rows: list[_Row]) -> str:
    text = "\nMend the rows, or set bad_rows to drop to leave them out"
    if all(row.misplaced_spans_only for row in rows):
        text += " (for evaluation: to keep, so that they still count)"
    return text + "."


def _shorten(value: Any) -> str:
    text = "nothing (the field is missing)" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_SHOWN else text[: _VALUE_SHOWN - 3] + "..."
