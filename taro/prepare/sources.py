"""Readers of the public annotation formats. Each gives rows with the fields of a sample, unchecked: what is wrong with a
value is found where all rows are checked, and no row is changed or left out here.

A format is an entry in `SOURCES`: what its files hold, and the rows that one such entry gives.

charades     Charades-STA: lines `VID start end##sentence`, or a csv with the columns id, start, end, sentence (and length)
activitynet  ActivityNet Captions: {video: {duration, timestamps, sentences}}
qvhighlights QVHighlights: rows {qid, query, duration, vid, relevant_windows, ...}
tvgbench     TVGBench: rows {path, question, answer "s-e", start, end, duration, ...}; start and end cut the file
tacos        TACoS: {video: {timestamps, sentences, num_frames, fps}}, timestamps in frames: seconds are frames / fps
ego4d_nlq    Ego4D NLQ: videos > clips > annotations > language_queries; each clip is a file, as Ego4D publishes them
timer1       Time-R1: rows {video, duration, timestamp, sentence, qid, video_start, video_end, ...}
taro         TaRO's benchmark rows {qid, query, duration, vid, relevant_windows, video_file, ...}, its rows for training
             {prompt, videos, reward_model, extra_info, ...}

Rows are one JSON list, or one JSON object a line. Of a video's path only the file's name is kept; where there is but an
id, the file is named after it. Keys that are not used stay, under their names.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from taro.data.rows import BENCHMARK_NAMES, from_benchmark
from taro.errors import TaroError
from taro.jsonl import NotJSON, parse_lines
from taro.messages import shorten
from taro.rows import is_number

Fields = dict[str, Any]

_CHARADES_LINE = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")
_CHARADES_COLUMNS = ("id", "start", "end", "sentence")
_TARO_QUERY = re.compile(r'the event "(.*)" in the video', re.DOTALL)


class SourceError(TaroError):
    """A file that is not of the format that it is said to be."""


class _Malformed(Exception):
    """An entry that can't be taken apart."""


@dataclass(frozen=True)
class SourceRow:
    """One query of a source: where it stands, and its fields; `problem` says why there are none."""

    place: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Source:
    """A format: its entries with their places, the rows of an entry, and what it calls the fields of a sample."""

    entries: Callable[[Path], Iterable[tuple[str, Any]]]
    rows: Callable[[Any], list[Fields]]
    names: Mapping[str, str] = field(default_factory=dict)

    def read(self, path: Path) -> Iterator[SourceRow]:
        """All rows of a file. Raises SourceError where it is of another format, OSError where it can't be read."""
        for place, entry in self.entries(path):
            place = f"{path.name} {place}"
            try:
                rows = self.rows(entry)
            except _Malformed as problem:
                yield SourceRow(place, problem=str(problem))
                continue
            for number, fields in enumerate(rows, start=1):
                yield SourceRow(place if len(rows) == 1 else f"{place} sentence {number}", fields)


def read_durations(paths: Iterable[Path]) -> dict[str, float]:
    """Seconds by video, from csv files with the columns id and length, as the Charades_v1_*.csv have them.

    Raises SourceError where a column is missing or a length is not a number above 0.
    """
    durations = {}
    for path in paths:
        for place, row in _table(path, ("id", "length")):
            length = _number(row["length"])
            if not is_number(length) or length <= 0:
                raise SourceError(f"{path} {place}: length: got {shorten(row['length'])}; allowed: a number above 0 (seconds)")
            durations[row["id"]] = length
    return durations


# ---- What files hold ----


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: no text in UTF-8 ({error})") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line.strip()


def _table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise SourceError(f"{path}: no column {', '.join(missing)}; allowed: a csv with the columns {', '.join(columns)}")
    for row in reader:
        yield f"line {reader.line_num}", row


def _charades_entries(path: Path) -> Iterator[tuple[str, str | Fields]]:
    return _table(path, _CHARADES_COLUMNS) if path.suffix.lower() == ".csv" else _lines(path)


def _items(path: Path) -> Iterator[tuple[str, Any]]:
    """Of one JSON list, or of a file with one JSON object a line."""
    text = _text(path)
    if text.lstrip().startswith("["):
        yield from ((f"row {number}", item) for number, item in enumerate(_json(path), start=1))
        return
    for number, item in parse_lines(text.split("\n")):  # splitlines also splits inside of JSON's strings
        if isinstance(item, NotJSON):
            raise SourceError(f"{path} line {number}: {item}; allowed: a list, or one object a line")
        yield f"line {number}", item


def _videos(path: Path) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Of one JSON object with an entry for each video."""
    videos = _json(path)
    if not isinstance(videos, dict):
        raise SourceError(f"{path}: got {shorten(videos)}; allowed: one object with an entry for each video")
    yield from ((video, (video, entry)) for video, entry in videos.items())


def _ego4d_annotations(path: Path) -> list[tuple[str, tuple[Fields, Fields, Fields]]]:
    data = _json(path)
    try:
        return [
            (f"{clip['clip_uid']} {annotation['annotation_uid']}", (video, clip, annotation))
            for video in data["videos"]
            for clip in video["clips"]
            for annotation in clip["annotations"]
        ]
    except (KeyError, TypeError) as error:
        allowed = "videos > clips with clip_uid > annotations with annotation_uid"
        raise SourceError(f"{path}: {type(error).__name__} {error}; allowed: {allowed}") from error


# ---- The rows of an entry ----


def _charades_rows(entry: str | Fields) -> list[Fields]:
    if isinstance(entry, str):
        match = _CHARADES_LINE.fullmatch(entry)
        if not match:
            raise _Malformed(f"got {shorten(entry)}; allowed: VID start end##sentence")
        entry = dict(zip(_CHARADES_COLUMNS, match.groups(), strict=True))
    if None in entry:  # where csv puts values without a column
        raise _Malformed(f"{shorten(entry[None])} beyond the last column; allowed: one value a column, with commas in quotes")
    rest = {name: value for name, value in entry.items() if name not in (*_CHARADES_COLUMNS, "length")}
    if "length" in entry:
        rest["duration"] = _number(entry["length"])
    span = [_number(entry["start"]), _number(entry["end"])]
    return [{**rest, "video": f"{entry['id']}.mp4", "query": entry["sentence"], "spans": [span]}]


def _activitynet_rows(entry: tuple[str, Any]) -> list[Fields]:
    video, about = entry
    rest = _without(about, "timestamps", "sentences")
    return [{**rest, "video": f"{video}.mp4", "query": sentence, "spans": [span]} for span, sentence in _timed_sentences(about)]


def _tacos_rows(entry: tuple[str, Any]) -> list[Fields]:
    video, about = entry
    rest = _without(about, "timestamps", "sentences")
    frames, rate = about.get("num_frames"), about.get("fps")
    if not (is_number(frames) and is_number(rate) and frames > 0 and rate > 0):
        raise _Malformed(f"num_frames, fps: got {shorten([frames, rate])}; allowed: numbers above 0")
    rest |= {"video": video if PurePosixPath(video).suffix else f"{video}.avi", "duration": frames / rate}
    return [{**rest, "query": sentence, "spans": [_seconds(span, rate)]} for span, sentence in _timed_sentences(about)]


def _tvgbench_rows(row: Any) -> list[Fields]:
    fields = _without(row, "path", "question", "answer", "start", "end")
    fields |= {ours: row[theirs] for ours, theirs in (("video", "path"), ("query", "question")) if theirs in row}
    if "answer" in row:
        answer = row["answer"]
        fields["spans"] = [[_number(time) for time in answer.split("-")]] if isinstance(answer, str) else answer
    return [_named(fields) | {"clip": _clip(row.get("start"), row.get("end"))}]


def _timer1_rows(row: Any) -> list[Fields]:
    fields = _without(row, "qid", "sentence", "timestamp", "video_start", "video_end")
    fields |= {ours: row[theirs] for ours, theirs in (("id", "qid"), ("query", "sentence")) if theirs in row}
    if "timestamp" in row:
        fields["spans"] = [row["timestamp"]]
    return [_named(fields) | {"clip": _clip(row.get("video_start"), row.get("video_end"))}]


def _benchmark_rows(row: Any) -> list[Fields]:
    row = _without(row)
    if "reward_model" in row:
        return [_taro_training_row(row)]
    if "spans" in row:
        raise _Malformed("got a row with spans, which is a sample already; allowed: a row with relevant_windows")
    fields = from_benchmark(row)
    if "video" not in fields and isinstance(fields.get("vid"), str):
        fields["video"] = f"{fields['vid']}.mp4"
    return [fields]


def _taro_training_row(row: Fields) -> Fields:
    try:
        [request], [video], about = row["prompt"], row["videos"], row["extra_info"]
        query = _TARO_QUERY.search(request["content"])
        fields = {"id": f"{about['split']}{about['index']}", "video": video, "duration": about["duration"]}
        fields["spans"] = [row["reward_model"]["ground_truth"]]
    except (KeyError, TypeError, ValueError) as error:
        allowed = "prompt of one message, one of videos, reward_model.ground_truth, extra_info with split, index, duration"
        raise _Malformed(f"{type(error).__name__} {error}; allowed: {allowed}") from error
    if query is None:
        raise _Malformed(f'prompt: got {shorten(request["content"])}; allowed: ... the event "QUERY" in the video ...')
    rest = _without(row, "prompt", "videos", "reward_model", "video_start", "video_end")
    clip = _clip(row.get("video_start"), row.get("video_end"))
    return _named({**rest, **fields, "query": query[1]}) | {"clip": clip}


def _ego4d_rows(entry: tuple[Fields, Fields, Fields]) -> list[Fields]:
    video, clip, annotation = entry
    uids = {"video_uid": video.get("video_uid"), "clip_uid": clip["clip_uid"], "annotation_uid": annotation["annotation_uid"]}
    shared = {**uids, "video": f"{clip['clip_uid']}.mp4"}
    limits = [clip.get("video_start_sec"), clip.get("video_end_sec")]
    if not all(is_number(time) for time in limits):
        raise _Malformed(f"video_start_sec, video_end_sec of the clip: got {shorten(limits)}; allowed: numbers (seconds)")
    queries = annotation.get("language_queries")
    if not isinstance(queries, list):
        raise _Malformed(f"language_queries: got {shorten(queries)}; allowed: a list")
    rows = []
    for number, query in enumerate(queries):
        fields = _without(query, "clip_start_sec", "clip_end_sec")
        if "clip_start_sec" in query or "clip_end_sec" in query:
            fields["spans"] = [[query.get("clip_start_sec"), query.get("clip_end_sec")]]
        name = f"{uids['clip_uid']}_{uids['annotation_uid']}_{number}"
        rows.append({**fields, **shared, "id": name, "duration": limits[1] - limits[0]})
    return rows


def _timed_sentences(about: Fields) -> list[tuple[Any, Any]]:
    times, sentences = about.get("timestamps"), about.get("sentences")
    if not isinstance(times, list) or not isinstance(sentences, list) or len(times) != len(sentences):
        got = f"timestamps: got {shorten(times)}, sentences: got {shorten(sentences)}"
        raise _Malformed(f"{got}; allowed: two lists of the same length")
    return list(zip(times, sentences, strict=True))


def _without(row: Any, *names: str) -> Fields:
    if not isinstance(row, dict):
        raise _Malformed(f"got {shorten(row)}; allowed: an object")
    return {name: value for name, value in row.items() if name not in names}


def _named(fields: Fields) -> Fields:
    """With the file's name for the path of the video."""
    video = fields.get("video")
    return {**fields, "video": PurePosixPath(video).name} if isinstance(video, str) else fields


def _clip(start: Any, end: Any) -> list[Any] | None:
    return None if start is None and end is None else [start, end]


def _seconds(frames: Any, rate: float) -> Any:
    """Frames in seconds; what is no list of numbers stays, to be reported."""
    if not isinstance(frames, list) or not all(is_number(frame) for frame in frames):
        return frames
    return [frame / rate for frame in frames]


def _number(text: str | None) -> float | str | None:
    """The number that a text is; any other text stays, to be reported."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


_CLIP = "[video_start, video_end]"
_TIMED_SENTENCES = {"query": "sentence", "spans": "timestamps"}
SOURCES = {
    "charades": Source(_charades_entries, _charades_rows, {"query": "sentence", "spans": "[start, end]"}),
    "activitynet": Source(_videos, _activitynet_rows, _TIMED_SENTENCES),
    "qvhighlights": Source(_items, _benchmark_rows, BENCHMARK_NAMES | {"video": "vid"}),
    "tvgbench": Source(
        _items, _tvgbench_rows, {"video": "path", "query": "question", "spans": "answer", "clip": "[start, end]"}
    ),
    "tacos": Source(_videos, _tacos_rows, _TIMED_SENTENCES),
    "ego4d_nlq": Source(_ego4d_annotations, _ego4d_rows, {"spans": "[clip_start_sec, clip_end_sec]"}),
    "timer1": Source(_items, _timer1_rows, {"id": "qid", "query": "sentence", "spans": "timestamp", "clip": _CLIP}),
    "taro": Source(_items, _benchmark_rows, BENCHMARK_NAMES),
}
