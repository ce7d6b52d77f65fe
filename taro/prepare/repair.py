"""What is wrong in an annotation file, mended or left out, with a record of each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from taro.data.rows import CLIP_TOLERANCE, Caption, Row, Sample, span_fault
from taro.data.samples import query_key, to_row
from taro.prompts import find_tag
from taro.spans import Span
from taro.tasks import find_task

# Nothing in the row says what would be right.
_HOPELESS = ("missing_video", "unreadable_video", "no_duration", "clip_length", "query_tag")


@dataclass(frozen=True)
class Change:
    """One field of one row before and after; a row that was left out has the field `row`, and None after."""

    place: str
    id: str | None
    field: str
    before: Any
    after: Any
    why: str


def drop_rows(rows: Sequence[Row]) -> tuple[list[Sample], list[Change]]:
    """Samples of the rows without faults, and a record of the others."""
    changes = [_dropped(row) for row in rows if row.faults]
    return [row.sample for row in rows if not row.faults], changes


def fix_rows(rows: Sequence[Row], durations: Mapping[str, float]) -> tuple[list[Sample], list[Change]]:
    """Samples of all rows that are good or can be mended, and a record of what was changed or left out.

    - A duration that is not the file's becomes the file's; one that is not there becomes the clip's or the file's.
    - A clip outside of its file is taken away where the file is as long as the clip: it is the clip, cut already.
    - A reversed span is swapped, one that is partly outside of the video is cut. One of no length, outside of the video,
      or far outside is left out, and its row with it if it was the only one, or each belongs to a part of the question: cutting
      would make up a truth.
    - Captions likewise, and those with a think or answer tag are left out; they are sorted, and a row stays without any.
    - An id that was there before gets a number.
    - Left out are rows that can't be read, have no query or one with a tag, the later of two rows that ask the same, rows whose
      video is missing or can't be read, and rows whose clip is not as long as their duration.

    Args:
        rows: With the faults that `taro.prepare.check` found.
        durations: Seconds of the files by path, as far as they are known.
    """
    samples: dict[str, Sample] = {}
    changes: list[Change] = []
    ids = {row.sample.id for row in rows if row.sample is not None}
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        fixed = None
        if row.sample is not None and not any(fault.kind in _HOPELESS for fault in row.faults):
            fixed = _fix(row.sample, durations.get(row.sample.video))
        if fixed is None or query_key(fixed) in seen:
            changes.append(_dropped(row, None if fixed is None else "duplicate_query"))
            continue
        seen.add(query_key(fixed))
        if fixed.id in samples:
            free = next(name for number in count(2) if (name := f"{fixed.id}_{number}") not in ids)
            ids.add(free)
            fixed = replace(fixed, id=free)
        changes += _compare(row, fixed)
        samples[fixed.id] = fixed
    return list(samples.values()), changes


def _fix(sample: Sample, length: float | None) -> Sample | None:
    """Mended but for its id; None where its file, of `length` seconds, has no such clip, or no span is left."""
    if length is not None:
        as_long = abs(length - sample.duration) <= CLIP_TOLERANCE
        if sample.clip is None:
            sample = sample if as_long else replace(sample, duration=length)
        elif sample.clip[1] > length + CLIP_TOLERANCE:
            if not as_long:
                return None
            sample = replace(sample, clip=None)
    spans = tuple(span for old in sample.spans if (span := _fix_span(old, sample.duration)) is not None)
    captions = [
        Caption(*span, caption.text)
        for caption in sample.captions
        if not find_tag(caption.text) and (span := _fix_span((caption.start, caption.end), sample.duration)) is not None
    ]
    captions.sort(key=lambda caption: caption.start)
    lost = len(sample.spans) - len(spans)
    if lost and (not spans or find_task(sample.task).ordered):
        return None
    return replace(sample, spans=spans, captions=tuple(captions))


def _fix_span(span: Span, duration: float) -> Span | None:
    start, end = sorted(span)
    kind = span_fault(start, end, duration)
    if kind is None:
        return start, end
    return (max(start, 0.0), min(end, duration)) if kind == "span_partly_outside" else None


def _compare(row: Row, fixed: Sample) -> list[Change]:
    why = ", ".join(dict.fromkeys(fault.kind for fault in row.faults))
    old, new = vars(row.sample), vars(fixed)
    if row.measured:
        old, why = {**old, "duration": None}, why or "no duration"
    names = ("id", "duration", "clip", "spans", "captions")
    return [Change(row.place, row.sample.id, name, old[name], new[name], why) for name in names if old[name] != new[name]]


def _dropped(row: Row, why: str | None = None) -> Change:
    why = why or "; ".join(f"{fault.kind}: {fault.message}" for fault in row.faults)
    return Change(row.place, row.sample and row.sample.id, "row", row.sample and to_row(row.sample), None, why)
