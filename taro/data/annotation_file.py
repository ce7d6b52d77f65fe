"""The rows of an annotation file, one JSON object a line. Durations that are not there are those of clips and files."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from taro.data.rows import BENCHMARK_NAMES, SAMPLE_FIELDS, Fault, Row, clip_length, parse_row, rename_fields
from taro.jsonl import NotJSON, read_lines
from taro.messages import shorten
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
    lines = [(f"line {number}", value) for number, value in islice(read_lines(path), limit)]
    objects = {place: value for place, value in lines if isinstance(value, dict)}
    _warn_of_near_misses(path, objects)
    named = {place: rename_fields(row, BENCHMARK_NAMES) if _is_benchmark(row) else row for place, row in objects.items()}
    videos = {_whole_file(fields, root) for fields in named.values() if fields.get("duration") is None} - {None}
    if len(videos) >= MANY_HEADERS:
        logger.warning(
            f"{path}: the durations of {len(videos)} videos are not there and are read from the files; a copy that has them is "
            f"made by python -m taro.prepare.check {path} --fix"
        )
    headers = read_all_durations(sorted(videos), workers) if videos else {}
    place_of_id: dict[str, str] = {}
    rows = []
    for place, value in lines:
        if place not in named:
            got = str(value) if isinstance(value, NotJSON) else f"got {shorten(value)}"
            rows.append(Row(place, None, (Fault("unreadable", f"{got}; allowed: one JSON object a line"),)))
            continue
        fields, names = named[place], BENCHMARK_NAMES if _is_benchmark(value) else {}
        measured = fields.get("duration") is None
        if measured and (found := clip_length(fields.get("clip")) or headers.get(_whole_file(fields, root))) is not None:
            fields = {**fields, "duration": found}
        rows.append(replace(parse_row(place, fields, root, place_of_id, names), measured=measured))
    return rows


def _is_benchmark(row: Mapping[str, Any]) -> bool:
    return "relevant_windows" in row and "spans" not in row


def _whole_file(row: Mapping[str, Any], root: Path) -> Path | None:
    """The video of a row that is about all of it."""
    video = row.get("video")
    return Path(root, video) if isinstance(video, str) and video.strip() and row.get("clip") is None else None


def _warn_of_near_misses(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Unknown keys are kept; one that is nearly a known one, which the row doesn't have, may be meant as it."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for place, row in rows.items():
        for key in sorted(row):
            near = _near_key(key, _is_benchmark(row))
            if near is not None and near not in row:
                places[key, near].append(place)
    for (key, near), found in places.items():
        where = f"{len(found)} rows, the first at {found[0]}"
        logger.warning(f"{path}: the key {key!r} ({where}) is not known and not used; did you mean {near!r}?")


@cache
def _near_key(key: str, benchmark: bool) -> str | None:
    """The known key that an unknown one is nearly; None for a known one, too."""
    known = BENCHMARK_KEYS if benchmark else SAMPLE_KEYS
    near = [] if key in (*BENCHMARK_KEYS, *SAMPLE_KEYS) else get_close_matches(key.lower(), known, 1, NEAR)
    return near[0] if near else None
