"""One row of an annotation file: the sample that it holds, and what is wrong with it.

All times are float seconds in the clip's own clock: 0 is the first frame of the clip, or of the file where there is no
clip.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taro.prompts import find_tag
from taro.video.file import VideoError

# Annotations round to two decimals: spans of ActivityNet Captions end up to 0.01 s after the duration beside them.
TIME_TOLERANCE = 0.02  # seconds
# A clip is cut at frames, so its length and the stated duration need not agree to the last frame.
CLIP_TOLERANCE = 0.5  # seconds
# Stated durations are rounded, at most to the 2-second units of QVHighlights, and a file's pictures, its sound and its
# header may end some pictures apart. A video that is off by more is another one, or the number is in another unit.
DURATION_TOLERANCE = 2.0  # seconds
DURATION_TOLERANCE_SHARE = 0.02  # of a longer video
MOST_SECONDS = 7 * 24 * 3600.0  # of a video: more is no duration
# A span that ends after so many lengths of the video is a mistake (of unit, or of video), and no rounding.
FAR_OUTSIDE = 2.0

# What can be wrong with a row, in the order in which it is reported.
FAULTS = {
    "unreadable": "a field is missing or not of its kind",
    "empty_query": "there is no query",
    "no_duration": "there is no duration, and the video has none that can be read",
    "duplicate_id": "an earlier row has the id",
    "zero_length_span": "a span has no length",
    "reversed_span": "a span ends before it starts",
    "span_partly_outside": "a span starts before or ends after the video",
    "span_outside": "a span shares nothing with the video",
    "span_far_outside": "a span ends later than twice the video's length",
    "clip_length": "the clip's length is not the duration",
    "empty_caption": "a caption ends where or before it starts",
    "caption_outside": "a caption is not inside the video",
    "caption_tag": "a caption has a think or answer tag in its text",
}
SPAN_FAULTS = frozenset({"zero_length_span", "reversed_span", "span_partly_outside", "span_outside", "span_far_outside"})
# Rows of an evaluation still count with these.
KEPT_FAULTS = SPAN_FAULTS | {"no_duration"}

_ROWS_SHOWN = 20
_VALUE_SHOWN = 80  # characters
_MISSING = object()
# Where a row of the public benchmark files holds the fields of a sample.
BENCHMARK_NAMES = {"id": "qid", "video": "video_file", "spans": "relevant_windows", "clip": "[video_start, video_end]"}


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
        duration: Length of the clip, or of the file where there is no clip, in seconds; nan where neither the row nor the
            file says it.
        clip: The part of the file that is shown, (start, end) in seconds of the file's clock; None for all of it.
        captions: Dense captions, in seconds of the clip's clock; filled by ``taro.prepare.caption``.
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


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: its kind (a key of ``FAULTS``), and a message with field, value and what is allowed."""

    kind: str
    message: str


@dataclass(frozen=True)
class Row:
    """One row: where it stands, its faults, and its sample, None where a field can't be read."""

    place: str
    sample: Sample | None
    faults: tuple[Fault, ...] = ()
    measured: bool = False
    """Whether the duration is not the row's, but that of its clip or file."""

    @property
    def still_counts(self) -> bool:
        """Whether the row is whole but for where its spans lie, or for the duration of a video that can't be read."""
        return self.sample is not None and all(fault.kind in KEPT_FAULTS for fault in self.faults)


def parse_row(
    place: str,
    fields: Mapping[str, Any],
    root: str | os.PathLike[str],
    place_of_id: dict[str, str],
    names: Mapping[str, str] | None = None,
) -> Row:
    """Read the fields of a sample, and find all that is wrong with them.

    Args:
        place: Where the row stands, for messages.
        fields: As JSON gave them; those that ``Sample`` doesn't have become its `extra`.
        root: Folder that a relative video starts from.
        place_of_id: Place of each id so far; the row's is entered.
        names: What messages call a field, where that is not its own name.
    """
    names = names or {}
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, checker in _FIELD_CHECKERS.items():
        try:
            values[name] = checker(fields.get(name, _DEFAULTS.get(name, _MISSING)))
        except _Invalid as invalid:
            faults.append(Fault(invalid.kind, f"{names.get(name, name)}{invalid}"))
    readable = all(fault.kind == "no_duration" for fault in faults)
    if readable:
        values.setdefault("duration", math.nan)
    first = place_of_id.setdefault(values["id"], place) if "id" in values else place
    if first != place:
        problem = _Invalid(values["id"], f"an id that no other row has ({first} has it too)")
        faults.append(Fault("duplicate_id", f"{names.get('id', 'id')}{problem}"))
    faults += placement_faults(values, names)
    if not readable:
        return Row(place, None, tuple(faults))
    values["video"] = os.path.join(root, values["video"])
    extra = {name: value for name, value in fields.items() if name not in _FIELD_CHECKERS}
    return Row(place, Sample(**values, extra=extra), tuple(faults))


def placement_faults(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Iterator[Fault]:
    """What is wrong with where spans, clip and captions lie, by the fields of a sample that are in `values`."""
    for name, find in _PLACEMENT_CHECKERS.items():
        if name in values and "duration" in values:
            for kind, invalid in find(values[name], values["duration"]):
                yield Fault(kind, f"{(names or {}).get(name, name)}{invalid}")


def from_benchmark(row: Mapping[str, Any]) -> dict[str, Any]:
    """Map a public benchmark row to the fields of a sample; its windows and duration are in the clip's clock too."""
    row = dict(row)
    clip = [row.pop("video_start", None), row.pop("video_end", None)]
    for name in ("id", "video", "spans"):
        if BENCHMARK_NAMES[name] in row:
            row[name] = row.pop(BENCHMARK_NAMES[name])
    return {**row, "clip": None if clip == [None, None] else clip}


def clip_length(clip: Any) -> float | None:
    """Seconds of the clip in a row; None where there is none that can be read."""
    try:
        ends = _check_clip(clip)
    except _Invalid:
        return None
    return None if ends is None else ends[1] - ends[0]


def span_fault(start: float, end: float, duration: float) -> str | None:
    """Kind of fault of a span (seconds) of a video of `duration` seconds; None for a good one."""
    if start == end:
        return "zero_length_span"
    if start > end:
        return "reversed_span"
    if is_inside(start, end, duration):
        return None
    if start >= duration - TIME_TOLERANCE or end <= TIME_TOLERANCE:
        return "span_outside"
    return "span_far_outside" if end > FAR_OUTSIDE * duration else "span_partly_outside"


def is_inside(start: float, end: float, duration: float) -> bool:
    """Whether both times (seconds) are in the video, up to rounding; one of unknown duration (nan) has no end."""
    return not any(time < -TIME_TOLERANCE or time > duration + TIME_TOLERANCE for time in (start, end))


def durations_agree(stated: float, found: float) -> bool:
    """Whether a sample's duration is that of its video or clip (seconds), up to rounding; one that isn't known (nan) agrees."""
    return not abs(stated - found) > max(DURATION_TOLERANCE, DURATION_TOLERANCE_SHARE * found)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number that a float can hold (JSON has integers without bound)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def list_rows(head: str, rows: Sequence[Row]) -> str:
    """A message of several lines: `head`, and the faults of the first 20 rows."""
    lines = [f"  {row.place}: {'; '.join(fault.message for fault in row.faults)}" for row in rows[:_ROWS_SHOWN]]
    more = len(rows) - len(lines)
    return "\n".join([f"{head}:", *lines, *([f"  and {more} more"] if more else [])])


def shorten(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = "nothing (the field is missing)" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_SHOWN else text[: _VALUE_SHOWN - 3] + "..."


# ---- Checking ----


class _Invalid(Exception):
    """A value that its field does not take."""

    def __init__(self, got: Any, allowed: str, where: str = "", kind: str = "unreadable"):
        super().__init__(f"{where}: got {shorten(got)}; allowed: {allowed}")
        self.kind = kind


def _check_id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise _Invalid(value, "text that is not empty, or a whole number")
    return str(value)


def _check_text(value: Any, where: str = "", kind: str = "unreadable") -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Invalid(value, "text that is not empty", where, kind)
    return value


def _check_query(value: Any) -> str:
    nothing = value is _MISSING or value is None or isinstance(value, str)
    return _check_text(value, kind="empty_query" if nothing else "unreadable")


def _check_duration(value: Any) -> float:
    if isinstance(value, VideoError):
        raise _Invalid(_MISSING, f"seconds, or nothing where the video can be read; {value}", kind="no_duration")
    if not is_number(value) or not 0 < value <= MOST_SECONDS:
        raise _Invalid(value, f"a number above 0 and at most {MOST_SECONDS:.0f} (seconds, a week)")
    return float(value)


def _check_spans(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list) or not value:
        raise _Invalid(value, "[[start, end], ...], one or more (seconds)")
    return tuple(_check_pair(pair, f"[{i}]") for i, pair in enumerate(value))


def _check_pair(value: Any, where: str = "") -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or not all(is_number(x) for x in value):
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
    return Caption(start, end, _check_text(value["text"], f"{where}.text"))


_Found = Iterator[tuple[str, _Invalid]]  # kinds, with what was got and is allowed


def _find_span_faults(spans: Iterable[tuple[float, float]], duration: float) -> _Found:
    for i, (start, end) in enumerate(spans):
        kind = span_fault(start, end, duration)
        if kind is not None:
            yield kind, _Invalid([start, end], f"start < end within [0, {duration}] (the duration)", f"[{i}]")


def _find_clip_fault(clip: tuple[float, float] | None, duration: float) -> _Found:
    if clip is not None and abs(clip[1] - clip[0] - duration) > CLIP_TOLERANCE:
        allowed = f"end - start within {CLIP_TOLERANCE} s of the duration, {duration} (the clip's, not the file's)"
        yield "clip_length", _Invalid(list(clip), allowed)


def _find_caption_faults(captions: Iterable[Caption], duration: float) -> _Found:
    for i, caption in enumerate(captions):
        times = [caption.start, caption.end]
        if find_tag(caption.text):
            allowed = "text without think and answer tags: in a reasoning path they would be read as the model's"
            yield "caption_tag", _Invalid(caption.text, allowed, f"[{i}].text")
        if caption.start >= caption.end:
            yield "empty_caption", _Invalid(times, "start < end", f"[{i}]")
        elif not is_inside(*times, duration):
            yield "caption_outside", _Invalid(times, f"within [0, {duration}] (the duration)", f"[{i}]")


_FIELD_CHECKERS: dict[str, Callable[[Any], Any]] = {
    "id": _check_id,
    "video": _check_text,
    "query": _check_query,
    "spans": _check_spans,
    "duration": _check_duration,
    "clip": _check_clip,
    "captions": _check_captions,
    "task": _check_text,
}
_PLACEMENT_CHECKERS: dict[str, Callable[[Any, float], _Found]] = {
    "spans": _find_span_faults,
    "clip": _find_clip_fault,
    "captions": _find_caption_faults,
}
_DEFAULTS: dict[str, Any] = {"clip": None, "captions": [], "task": "grounding"}
