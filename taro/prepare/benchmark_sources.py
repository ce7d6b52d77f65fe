"""Readers of sets that are there to evaluate on, as in `taro.prepare.sources`.

timelens         TimeLens-Bench: {video: {duration, spans, queries}}
vue_tr           VUE-TR-V2: rows {query_id, video_id, duration, query, gt, duration_category, query_format, query_modality}
omtg             OMTG Bench: a table with tabs and the columns video, question, answer (and index). The question is a whole
                 prompt, of which the query is what it quotes, or all of it where it quotes none; the answer names the times
extremewhenbench ExtremeWhenBench: rows {qid, video_id, question, correct_interval, video_duration_s, ...}
vstar            V-STaR: rows {vid, temporal_question, timestamps, frame_count, fps, ...}: its question when, without the boxes
momentseeker     MomentSeeker: rows {src_video_path, qry_text, answering_time_interval, task, ...} of t2v.json; those of the
                 other files ask with an image or a video
tomato           TOMATO: {number: {question, options, answer, key, motion_type, demonstration_type, ...}}; the answer is the
                 number of an option, and the video lies in a folder of its demonstration type

OMTG Bench, MomentSeeker and TOMATO don't say how long videos are: it is read from the files in `--video_root`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from taro.data.rows import rename_fields
from taro.messages import describe_fault
from taro.prepare.sources import (
    Fields,
    Malformed,
    Source,
    read_items,
    read_table,
    read_videos,
    timed_sentences,
    with_file_name,
    without,
)
from taro.rows import is_number

_CLIP = {"clip": "[start, end]"}  # of which these sets have none
_VUE_TR = {"id": "query_id", "video": "video_id", "spans": "gt", **_CLIP}
_EXTREME_WHEN = {
    "id": "qid",
    "video": "video_id",
    "query": "question",
    "spans": "correct_interval",
    "duration": "video_duration_s",
    **_CLIP,
}
_VSTAR = {"video": "vid", "query": "temporal_question", "spans": "timestamps", **_CLIP}
_MOMENT = {"video": "src_video_path", "query": "qry_text", "spans": "answering_time_interval", "moment_task": "task", **_CLIP}
_QUOTED = re.compile(r"""given textual query (['"])(.+)\1""", re.DOTALL)
_TIME = re.compile(r"\d+(?::\d+)*(?:\.\d+)?")


def _timelens_rows(entry: tuple[str, Any]) -> list[Fields]:
    video, about = entry
    return [{**fields, "video": f"{video}.mp4"} for fields in timed_sentences(about, "spans", "queries")]


def _vue_tr_rows(row: Any) -> list[Fields]:
    return [_with_video({**rename_fields(without(row, "task"), _VUE_TR), "task": "multi_span"})]


def _extreme_rows(row: Any) -> list[Fields]:
    return [_with_video(_one_span(rename_fields(without(row), _EXTREME_WHEN)))]


def _vstar_rows(row: Any) -> list[Fields]:
    fields = _with_video(_one_span(rename_fields(without(row, "bboxes"), _VSTAR)))
    frames, rate = fields.get("frame_count"), fields.get("fps")
    if not (is_number(frames) and is_number(rate) and frames > 0 and rate > 0):
        raise Malformed(describe_fault("frame_count, fps", [frames, rate], "numbers above 0"))
    return [{**fields, "duration": round(frames / rate, 2)}]


def _moment_rows(row: Any) -> list[Fields]:
    fields = without(row, "qry_img_path", "qry_video_path")
    if shown := row.get("qry_img_path") or row.get("qry_video_path"):
        raise Malformed(describe_fault("qry_img_path, qry_video_path", shown, "a query of words alone, as in t2v.json"))
    return [with_file_name({**rename_fields(fields, _MOMENT), "task": "multi_span"})]


def _omtg_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    return read_table(path, ("video", "question", "answer"), delimiter="\t")


def _omtg_rows(row: dict[str, str]) -> list[Fields]:
    question, answer = row["question"] or "", row["answer"] or ""
    quoted, times = _QUOTED.search(question), [_seconds(time) for time in _TIME.findall(answer)]
    if not times or len(times) % 2:
        raise Malformed(describe_fault("answer", answer, "the start and the end of each span"))
    fields = {**without(row, "index", "question", "answer"), "query": quoted[2] if quoted else question, "task": "multi_span"}
    fields["spans"] = [[start, end] for start, end in zip(times[::2], times[1::2], strict=True)]
    return [fields | ({"id": row["index"]} if row.get("index") else {})]


def _seconds(time: str) -> float:
    """Of `1:02:03.5`, or of seconds."""
    seconds = 0.0
    for part in time.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _tomato_rows(entry: tuple[str, Any]) -> list[Fields]:
    number, about = entry
    fields = without(about, "question", "options", "answer", "key")
    try:
        letter = ascii_uppercase[: len(about["options"])][about["answer"]]
        named = {"id": f"{about['motion_type']}_{number}", "video": f"{about['demonstration_type']}/{about['key']}.mp4"}
        asked = {"query": about["question"], "choices": about["options"], "answer": letter, "spans": []}
    except (KeyError, TypeError, IndexError) as error:
        allowed = "question, options, answer (the number of one), key, motion_type, demonstration_type"
        raise Malformed(f"{type(error).__name__} {error}; allowed: {allowed}") from error
    return [{**fields, **named, **asked, "task": "multiple_choice"}]


def _one_span(fields: Fields) -> Fields:
    return {**fields, "spans": [fields["spans"]]} if "spans" in fields else fields


def _with_video(fields: Fields) -> Fields:
    """With the file that is named after a video's id."""
    return {**fields, "video": f"{fields['video']}.mp4"} if isinstance(fields.get("video"), str) else fields


BENCHMARK_SOURCES = {
    "timelens": Source(read_videos, _timelens_rows, {"query": "queries"}),
    "vue_tr": Source(read_items, _vue_tr_rows, _VUE_TR),
    "omtg": Source(_omtg_table, _omtg_rows, {"query": "question", "spans": "answer"}),
    "extremewhenbench": Source(read_items, _extreme_rows, _EXTREME_WHEN),
    "vstar": Source(read_items, _vstar_rows, _VSTAR),
    "momentseeker": Source(read_items, _moment_rows, _MOMENT),
    "tomato": Source(read_videos, _tomato_rows, {"query": "question", "choices": "options"}),
}
