"""Readers of the public annotation formats. Each gives rows with the fields of a sample, unchecked: what is wrong with a
value is found where all rows are checked, and no row is changed or left out here.

A format is an entry in `SOURCES`: what its files hold, and the rows that one such entry gives. Those of other tasks are in
`taro.prepare.task_sources`, those of sets to evaluate on in `taro.prepare.benchmark_sources`.

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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from taro.data.rows import BENCHMARK_NAMES, rename_fields
from taro.errors import TaroError
from taro.jsonl import NotJSON, parse_lines
from taro.messages import describe_fault, shorten
from taro.rows import is_number

Fields = dict[str, Any]

_CHARADES_LINE = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")
_CHARADES_COLUMNS = ("id", "start", "end", "sentence")
_TARO_QUERY = re.compile(r'the event "(.*)" in the video', re.DOTALL)
_TVGBENCH_NAMES = {"video": "path", "query": "question", "spans": "answer", "clip": "[start, end]"}
_TIMER1_NAMES = {"id": "qid", "query": "sentence", "spans": "timestamp", "clip": BENCHMARK_NAMES["clip"]}
_TIMED_SENTENCES = {"query": "sentence", "spans": "timestamps"}


class SourceError(TaroError):
    """A file that is not of the format that it is said to be."""


class Malformed(Exception):
    """An entry that can't be taken apart."""


@dataclass(frozen=True)
class Source:
    """A format: its entries with their places, the rows of an entry, and what it calls the fields of a sample."""

    entries: Callable[[Path], Iterable[tuple[str, Any]]]
    rows: Callable[[Any], list[Fields]]
    names: Mapping[str, str]

    def read(self, path: Path) -> Iterator[tuple[str, Fields | str]]:
        """The place of each row of a file, and its fields, or why it has none. Raises SourceError for another format."""
        for place, entry in self.entries(path):
            place = f"{path.name} {place}"
            try:
                rows = self.rows(entry)
            except Malformed as problem:
                yield place, str(problem)
                continue
            for number, fields in enumerate(rows, start=1):
                yield place if len(rows) == 1 else f"{place} sentence {number}", fields


def read_durations(paths: Iterable[Path]) -> dict[str, float]:
    """Seconds by video, from csv files with the columns id and length, as the Charades_v1_*.csv have them; SourceError where a
    length is no number above 0."""
    durations = {}
    for path in paths:
        for place, row in read_table(path, ("id", "length")):
            durations[row["id"]] = length = parse_number(row["length"])
            if not is_number(length) or length <= 0:
                problem = describe_fault("length", row["length"], "a number above 0 (seconds)")
                raise SourceError(f"{path} {place}: {problem}")
    return durations


# ---- What files hold ----


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: no text in UTF-8 ({error})") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line.strip()


def read_table(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter)
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise SourceError(f"{path}: no column {', '.join(missing)}; allowed: a csv with the columns {', '.join(columns)}")
    for row in reader:
        yield f"line {reader.line_num}", row


def _charades_entries(path: Path) -> Iterator[tuple[str, str | Fields]]:
    return read_table(path, _CHARADES_COLUMNS) if path.suffix.lower() == ".csv" else _lines(path)


def read_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Of one JSON list, or of a file with one JSON object a line."""
    text = _text(path)
    if text.lstrip().startswith("["):
        yield from ((f"row {number}", item) for number, item in enumerate(read_json(path), start=1))
        return
    for number, item in parse_lines(text.split("\n")):  # splitlines also splits inside of JSON's strings
        if isinstance(item, NotJSON):
            raise SourceError(f"{path} line {number}: {item}; allowed: a list, or one object a line")
        yield f"line {number}", item


def read_videos(path: Path) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Of one JSON object with an entry for each video."""
    videos = read_json(path)
    if not isinstance(videos, dict):
        raise SourceError(f"{path}: got {shorten(videos)}; allowed: one object with an entry for each video")
    yield from ((video, (video, entry)) for video, entry in videos.items())


def _ego4d_annotations(path: Path) -> list[tuple[str, tuple[Fields, Fields, Fields]]]:
    data = read_json(path)
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
            raise Malformed(f"got {shorten(entry)}; allowed: VID start end##sentence")
        entry = dict(zip(_CHARADES_COLUMNS, match.groups(), strict=True))
    if None in entry:  # where csv puts values without a column
        raise Malformed(f"{shorten(entry[None])} beyond the last column; allowed: one value a column, with commas in quotes")
    fields = without(entry, *_CHARADES_COLUMNS, "length")
    if "length" in entry:
        fields["duration"] = parse_number(entry["length"])
    span = [parse_number(entry["start"]), parse_number(entry["end"])]
    return [{**fields, "video": f"{entry['id']}.mp4", "query": entry["sentence"], "spans": [span]}]


def _activitynet_rows(entry: tuple[str, Any]) -> list[Fields]:
    video, about = entry
    return [{**fields, "video": f"{video}.mp4"} for fields in timed_sentences(about)]


def _tacos_rows(entry: tuple[str, Any]) -> list[Fields]:
    video, about = entry
    rows = timed_sentences(about)
    frames, rate = about.get("num_frames"), about.get("fps")
    if not (is_number(frames) and is_number(rate) and frames > 0 and rate > 0):
        raise Malformed(describe_fault("num_frames, fps", [frames, rate], "numbers above 0"))
    name = video if PurePosixPath(video).suffix else f"{video}.avi"
    for fields in rows:
        fields |= {"video": name, "duration": frames / rate}
        [span] = fields["spans"]
        if isinstance(span, list) and all(map(is_number, span)):  # anything else stays, to be reported
            fields["spans"] = [[frame / rate for frame in span]]
    return rows


def _tvgbench_rows(row: Any) -> list[Fields]:
    fields = rename_fields(without(row), _TVGBENCH_NAMES)
    if isinstance(answer := fields.get("spans"), str):
        fields["spans"] = [[parse_number(time) for time in answer.split("-")]]
    return [with_file_name(fields)]


def _timer1_rows(row: Any) -> list[Fields]:
    fields = rename_fields(without(row), _TIMER1_NAMES)
    if "spans" in fields:
        fields["spans"] = [fields["spans"]]
    return [with_file_name(fields)]


def _benchmark_rows(row: Any) -> list[Fields]:
    fields = rename_fields(without(row), BENCHMARK_NAMES)
    if "reward_model" in row:
        return [_taro_training_row(fields)]
    if "spans" in row:
        raise Malformed("got a row with spans, which is a sample already; allowed: a row with relevant_windows")
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
        raise Malformed(f"{type(error).__name__} {error}; allowed: {allowed}") from error
    if query is None:
        raise Malformed(describe_fault("prompt", request["content"], '... the event "QUERY" in the video ...'))
    return with_file_name({**without(row, "prompt", "videos", "reward_model"), **fields, "query": query[1]})


def _ego4d_rows(entry: tuple[Fields, Fields, Fields]) -> list[Fields]:
    video, clip, annotation = entry
    uids = {"video_uid": video.get("video_uid"), "clip_uid": clip["clip_uid"], "annotation_uid": annotation["annotation_uid"]}
    limits = [clip.get("video_start_sec"), clip.get("video_end_sec")]
    if not all(is_number(time) for time in limits):
        raise Malformed(describe_fault("video_start_sec, video_end_sec of the clip", limits, "numbers (seconds)"))
    queries = annotation.get("language_queries")
    if not isinstance(queries, list):
        raise Malformed(describe_fault("language_queries", queries, "a list"))
    shared = {**uids, "video": f"{clip['clip_uid']}.mp4", "duration": limits[1] - limits[0]}
    rows = []
    for number, query in enumerate(queries):
        fields = {**without(query, "clip_start_sec", "clip_end_sec"), **shared}
        if "clip_start_sec" in query or "clip_end_sec" in query:
            fields["spans"] = [[query.get("clip_start_sec"), query.get("clip_end_sec")]]
        rows.append({**fields, "id": f"{uids['clip_uid']}_{uids['annotation_uid']}_{number}"})
    return rows


def timed_sentences(about: Any, spans: str = "timestamps", queries: str = "sentences") -> list[Fields]:
    """A row of each sentence about a video, with its span as it is; both are lists, under these keys."""
    rest = without(about, spans, queries)
    times, sentences = about.get(spans), about.get(queries)
    if not isinstance(times, list) or not isinstance(sentences, list) or len(times) != len(sentences):
        got = f"{spans}: got {shorten(times)}, {queries}: got {shorten(sentences)}"
        raise Malformed(f"{got}; allowed: two lists of the same length")
    return [{**rest, "query": sentence, "spans": [span]} for span, sentence in zip(times, sentences, strict=True)]


def without(row: Any, *names: str) -> Fields:
    if not isinstance(row, dict):
        raise Malformed(f"got {shorten(row)}; allowed: an object")
    return {name: value for name, value in row.items() if name not in names}


def with_file_name(fields: Fields) -> Fields:
    """With the file's name for the path of the video."""
    video = fields.get("video")
    return {**fields, "video": PurePosixPath(video).name} if isinstance(video, str) else fields


def parse_number(text: str | None) -> float | str | None:
    """The number that a text is; any other text stays, to be reported."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


SOURCES = {
    "charades": Source(_charades_entries, _charades_rows, {"query": "sentence", "spans": "[start, end]"}),
    "activitynet": Source(read_videos, _activitynet_rows, _TIMED_SENTENCES),
    "qvhighlights": Source(read_items, _benchmark_rows, BENCHMARK_NAMES | {"video": "vid"}),
    "tvgbench": Source(read_items, _tvgbench_rows, _TVGBENCH_NAMES),
    "tacos": Source(read_videos, _tacos_rows, _TIMED_SENTENCES),
    "ego4d_nlq": Source(_ego4d_annotations, _ego4d_rows, {"spans": "[clip_start_sec, clip_end_sec]"}),
    "timer1": Source(read_items, _timer1_rows, _TIMER1_NAMES),
    "taro": Source(read_items, _benchmark_rows, BENCHMARK_NAMES),
}
