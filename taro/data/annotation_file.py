"""The rows of an annotation file, one JSON object a line. Durations that are not there are those of clips and files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from taro.data.rows import BENCHMARK_NAMES, SAMPLE_FIELDS, Fault, Row, clip_length, parse_row, rename_fields
from taro.jsonl import NotJSON, read_lines
from taro.messages import shorten
from taro.video.file import VideoError
from taro.video.header import read_all_durations

logger = logging.getLogger(__name__)

SAMPLE_KEYS = (*SAMPLE_FIELDS, "relevant_windows")
BENCHMARK_KEYS = ("qid", "query", "duration", "relevant_windows", "video_file", "video_start", "video_end", "captions", "task")
NEAR = 0.85  # difflib's ratio: "capton" is near to captions, "video_id" is not near to video_end
MANY_HEADERS = 1000  # that are worth a word: to read one takes some milliseconds


def read_rows(path: Path, root: Path, limit: int | None = None, workers: int | None = None) -> list[Row]:
    """Rows of a file with one JSON object a line: fields of ``Sample``, or those of the public benchmark files.

    Relative videos start from `root`; blank lines are no rows. A duration that is not there is the clip's or else the file's,
    whose header is read for it, by `workers` processes (None: one for each core). Raises OSError where the annotation file
    can't be read.
    """
    lines = [_read_line(f"line {number}", value) for number, value in islice(read_lines(path), limit)]
    headers = _read_headers(path, [line.fields for line in lines if line.fields is not None], root, workers)
    _warn_of_near_misses(path, lines)
    place_of_id: dict[str, str] = {}
    return [_to_row(line, root, place_of_id, headers) for line in lines]


@dataclass(frozen=True)
class _Line:
    """A line of an annotation file: the fields of a sample and what the file calls them, or why it has none."""

    place: str
    fields: dict[str, Any] | None
    names: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    keys: frozenset[str] = frozenset()
    """Of the row as it was written."""


def _read_line(place: str, row: Any) -> _Line:
    if isinstance(row, NotJSON):
        return _Line(place, None, problem=f"{row}; allowed: one JSON object a line")
    if not isinstance(row, dict):
        return _Line(place, None, problem=f"got {shorten(row)}; allowed: one JSON object a line")
    if "relevant_windows" in row and "spans" not in row:
        return _Line(place, rename_fields(row, BENCHMARK_NAMES), BENCHMARK_NAMES, keys=frozenset(row))
    return _Line(place, row, keys=frozenset(row))


def _to_row(line: _Line, root: Path, place_of_id: dict[str, str], headers: Mapping[Path, float | VideoError]) -> Row:
    if line.fields is None:
        return Row(line.place, None, (Fault("unreadable", line.problem),))
    values, measured = line.fields, line.fields.get("duration") is None
    if measured and (length := clip_length(values.get("clip"))) is not None:
        values = {**values, "duration": length}
    elif measured and (video := _whole_file(values, root)) is not None:
        values = {**values, "duration": headers[video]}
    return replace(parse_row(line.place, values, root, place_of_id, line.names), measured=measured)


def _warn_of_near_misses(path: Path, lines: Iterable[_Line]) -> None:
    """Unknown keys are kept; one that is nearly a known one, which the row doesn't have, may be meant as it."""
    first: dict[tuple[str, str], str] = {}
    count: Counter[tuple[str, str]] = Counter()
    for line in lines:
        for key in sorted(line.keys):
            near = _near_key(key, line.names is BENCHMARK_NAMES)
            if near is not None and near not in line.keys:
                first.setdefault((key, near), line.place)
                count[key, near] += 1
    for (key, near), rows in count.items():
        where = f"{rows} rows, the first at {first[key, near]}"
        logger.warning(f"{path}: the key {key!r} ({where}) is not known and not used; did you mean {near!r}?")


@cache
def _near_key(key: str, benchmark: bool) -> str | None:
    """The known key that an unknown one is nearly; None for a known one, too."""
    known = BENCHMARK_KEYS if benchmark else SAMPLE_KEYS
    near = [] if key in (*BENCHMARK_KEYS, *SAMPLE_KEYS) else get_close_matches(key.lower(), known, 1, NEAR)
    return near[0] if near else None


def _read_headers(
    path: Path, rows: Iterable[Mapping[str, Any]], root: Path, workers: int | None
) -> dict[Path, float | VideoError]:
    """Seconds of the files that rows without a duration are about, or why they can't be read."""
    videos = {_whole_file(row, root) for row in rows if row.get("duration") is None} - {None}
    if len(videos) >= MANY_HEADERS:
        logger.warning(
            f"{path}: the durations of {len(videos)} videos are not there and are read from the files; a copy that has them is "
            f"made by python -m taro.prepare.check {path} --fix"
        )
    return read_all_durations(sorted(videos), workers) if videos else {}


def _whole_file(row: Mapping[str, Any], root: Path) -> Path | None:
    """The video of a row that is about all of it."""
    video = row.get("video")
    return Path(root, video) if isinstance(video, str) and video.strip() and row.get("clip") is None else None
