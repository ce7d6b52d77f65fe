"""One row of an annotation file: the sample that it holds, and what is wrong with it.

All times are float seconds in the clip's own clock: 0 is the first frame of the clip, or of the file where there is no
clip.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from taro.messages import MISSING, describe_fault, list_lines
from taro.prompts import find_tag
from taro.rows import Number, Pair, Rest, Seconds, Text, read_fields
from taro.spans import Span
from taro.tasks import DEFAULT, TASKS
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
    "unknown_task": "there is no such task",
    "task_field": "the sample lacks what its task needs",
    "empty_query": "there is no query",
    "query_tag": "a query or a choice has a think or answer tag in its text",
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
# Rows of an evaluation still count with these; what can't be asked there scores 0.
KEPT_FAULTS = SPAN_FAULTS | {"no_duration", "query_tag"}

# Where a row of the public benchmark files holds the fields of a sample; its windows and duration are in the clip's clock, too.
BENCHMARK_NAMES = {"id": "qid", "video": "video_file", "spans": "relevant_windows", "clip": "[video_start, video_end]"}


def _read_id(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _require_order(clip: Span | None) -> Span | None:
    if clip is not None and not 0 <= clip[0] < clip[1]:
        raise ValueError("no part of a file")
    return clip


_Clip = Annotated[
    Pair | None, AfterValidator(_require_order), Field(description="null, or [start, end] with 0 <= start < end (seconds)")
]
_NO_TAGS = "text without think and answer tags: in a reasoning path they would be read as the model's"
_ALLOWED_DURATION = f"a number above 0 and at most {MOST_SECONDS:.0f} (seconds, a week)"


@dataclass(frozen=True)
class Caption:
    """What happens from ``start`` to ``end`` (seconds in the clip's clock)."""

    start: Seconds
    end: Seconds
    text: Text


@dataclass(frozen=True)
class Sample:
    """One query about one video.

    Attributes:
        id: Unique in its file.
        video: Path of the file, as it can be opened.
        query: The event that is looked for.
        spans: Every (start, end) that answers the query, in seconds of the clip's clock; one or more, or none where the task
            allows that the event doesn't occur.
        duration: Length of the clip, or of the file where there is no clip, in seconds; nan where neither the row nor the
            file says it.
        clip: The part of the file that is shown, (start, end) in seconds of the file's clock; None for all of it.
        captions: Dense captions, in seconds of the clip's clock; filled by ``taro.prepare.caption``.
        task: What is asked for, one of ``taro.tasks.TASKS``.
        extra: Keys of the row that are not named above, as they were; those that only some tasks have (choices) among them.
    """

    id: Annotated[Text, BeforeValidator(_read_id), Field(description="text that is not empty, or a whole number")]
    video: Text
    query: Text
    spans: Annotated[tuple[Pair, ...], Field(description="[[start, end], ...] (seconds)")]
    duration: Annotated[Number, Field(gt=0, le=MOST_SECONDS, description=_ALLOWED_DURATION)]
    clip: _Clip = None
    captions: Annotated[
        tuple[Annotated[Caption, Field(description='{"start", "end", "text"}')], ...],
        Field(description='a list of {"start", "end", "text"}'),
    ] = ()
    task: Text = DEFAULT
    extra: Rest = field(default_factory=dict, hash=False)


SAMPLE_FIELDS = tuple(field.name for field in fields(Sample) if field.name != "extra")


class _Clipped:
    """Of a row, its clip alone."""

    clip: _Clip


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
        """Whether the row is whole but for where its spans lie, for the duration of a video that can't be read, or for a tag in
        its query."""
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
    names, kind_of_question = names or {}, fields.get("task", DEFAULT)
    task = TASKS.get(kind_of_question) if isinstance(kind_of_question, str) else None
    fields = fields if task is None else task.complete(fields)
    values, problems = read_fields(Sample, fields, names)
    faults = []
    for name, problem in problems.items():
        kind, value = "unreadable", fields.get(name)
        if name == "query" and (value is None or isinstance(value, str)):
            kind = "empty_query"
        elif name == "duration" and isinstance(value, VideoError):
            allowed = f"seconds, or nothing where the video can be read; {value}"
            kind, problem = "no_duration", describe_fault(names.get(name, name), MISSING, allowed)
        faults.append(Fault(kind, problem))
    if task is not None:
        faults += [Fault("task_field", problem) for problem in task.faults(fields, values.get("spans"), names)]
    elif "task" in values:
        faults.append(Fault("unknown_task", describe_fault("task", values["task"], ", ".join(TASKS))))
    readable = all(fault.kind == "no_duration" for fault in faults)
    if readable:
        values.setdefault("duration", math.nan)
    first = place_of_id.setdefault(values["id"], place) if "id" in values else place
    if first != place:
        allowed = f"an id that no other row has ({first} has it too)"
        faults.append(Fault("duplicate_id", describe_fault(names.get("id", "id"), values["id"], allowed)))
    faults += _placement_faults(values, names)
    if not readable:
        return Row(place, None, tuple(faults))
    values["video"] = os.path.join(root, values["video"])
    extra = {name: value for name, value in fields.items() if name not in SAMPLE_FIELDS}
    sample = Sample(**values, extra=extra)
    return Row(place, sample, (*faults, *_tag_faults(sample, names)))


def rename_fields(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row with its keys named as the fields of a sample.

    Args:
        row: As JSON gave it.
        names: What the row calls the fields; of the clip, "[start, end]" with the keys of its two ends.
    """
    ends = names["clip"].strip("[]").split(", ")
    clip = [row.get(end) for end in ends]
    there = {ours: theirs for ours, theirs in names.items() if theirs in row}
    rest = {name: value for name, value in row.items() if name not in (*ends, *there.values())}
    return {**rest, **{ours: row[theirs] for ours, theirs in there.items()}, "clip": None if clip == [None, None] else clip}


def clip_length(clip: Any) -> float | None:
    """Seconds of the clip in a row; None where there is none that can be read."""
    ends = read_fields(_Clipped, {"clip": clip})[0].get("clip")
    return None if ends is None else ends[1] - ends[0]


def span_fault(start: float, end: float, duration: float) -> str | None:
    """Kind of fault of a span (seconds) of a video of `duration` seconds; None for a good one."""
    if start == end:
        return "zero_length_span"
    if start > end:
        return "reversed_span"
    if _is_inside(start, end, duration):
        return None
    if start >= duration - TIME_TOLERANCE or end <= TIME_TOLERANCE:
        return "span_outside"
    return "span_far_outside" if end > FAR_OUTSIDE * duration else "span_partly_outside"


def _is_inside(start: float, end: float, duration: float) -> bool:
    """Whether both times (seconds) are in the video, up to rounding; one of unknown duration (nan) has no end."""
    return not any(time < -TIME_TOLERANCE or time > duration + TIME_TOLERANCE for time in (start, end))


def durations_agree(stated: float, found: float) -> bool:
    """Whether a sample's duration is that of its video or clip (seconds), up to rounding; one that isn't known (nan) agrees."""
    return not abs(stated - found) > max(DURATION_TOLERANCE, DURATION_TOLERANCE_SHARE * found)


def list_rows(head: str, rows: Sequence[Row]) -> str:
    """A message of several lines: `head`, and the faults of the first 20 rows."""
    return list_lines(f"{head}:", [f"{row.place}: {'; '.join(fault.message for fault in row.faults)}" for row in rows])


# ---- Where spans, clip and captions lie ----


def _tag_faults(sample: Sample, names: Mapping[str, str]) -> Iterator[Fault]:
    """Tags in what is asked, with which no prompt is made."""
    for name, text in TASKS[sample.task].asked(sample).items():
        if find_tag(text):
            yield Fault("query_tag", describe_fault(names.get(name, name), text, _NO_TAGS))


def _placement_faults(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Fault]:
    """What is wrong with where they lie, as far as they and the duration are in `values`."""
    duration = values.get("duration")
    if duration is None:
        return
    spans, clip = (names.get(name, name) for name in ("spans", "clip"))
    for i, span in enumerate(values.get("spans", ())):
        kind = span_fault(*span, duration)
        if kind is not None:
            allowed = f"start < end within [0, {duration}] (the duration)"
            yield Fault(kind, describe_fault(f"{spans}[{i}]", list(span), allowed))
    ends = values.get("clip")
    if ends is not None and abs(ends[1] - ends[0] - duration) > CLIP_TOLERANCE:
        allowed = f"end - start within {CLIP_TOLERANCE} s of the duration, {duration} (the clip's, not the file's)"
        yield Fault("clip_length", describe_fault(clip, list(ends), allowed))
    for i, caption in enumerate(values.get("captions", ())):
        place, times = f"captions[{i}]", [caption.start, caption.end]
        if find_tag(caption.text):
            yield Fault("caption_tag", describe_fault(f"{place}.text", caption.text, _NO_TAGS))
        if caption.start >= caption.end:
            yield Fault("empty_caption", describe_fault(place, times, "start < end"))
        elif not _is_inside(*times, duration):
            yield Fault("caption_outside", describe_fault(place, times, f"within [0, {duration}] (the duration)"))
