"""Readers of public annotations of other tasks than grounding with one sentence and one span, as in `taro.prepare.sources`.

nextgqa             NExT-GQA: val.csv or test.csv, with gsub_val.json or gsub_test.json beside it: questions with five choices,
                    and the spans of the evidence
activitynet_v1_3,   ActivityNet v1.3, HACS Segments: {database: {video: {duration, subset, annotations: [{segment, label}]}}}; a
hacs                row for each label of a video, with all its segments
qvhighlights_clips  QVHighlights: the files of `qvhighlights`; highlights are the 2-second clips whose mean score is at least 3
                    (good), or, where none is, those with the highest
didemo              DiDeMo: rows {annotation_id, description, video, times, ...}; times are first and last segment of 5 seconds,
                    one pair for each annotator. True are those that two agree on; where no two do, all
ra_rft              HI-VTG and SS-VTG of RA-RFT: rows {video, timestamp, duration, video_start, video_end, GRPO: [{q, a, r},
                    ...], think, ...}; the timestamp answers the query `q` or, where `r` is false, nothing does: `a` says why.
                    Where `think` names further windows of the query (SS-VTG of QVHighlights), all are true, and the row's
                    `scored_span` is the timestamp, which alone the authors' IoU is with. Where several queries of a row occur
                    (SS-VTG of Charades) each has the timestamp, as in their scorer: the file has no other
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from string import ascii_uppercase
from typing import Any

from taro.data.rows import BENCHMARK_NAMES, rename_fields
from taro.messages import describe_fault
from taro.prepare.sources import (
    Fields,
    Malformed,
    Source,
    SourceError,
    parse_number,
    read_items,
    read_json,
    read_table,
    with_file_name,
    without,
)
from taro.prompts import answer_text, spans_in
from taro.rows import is_number
from taro.spans import merge_spans

CLIP_SECONDS, GOOD = 2.0, 3.0  # of QVHighlights: a clip's length, and a score from 0 to 4
SEGMENT_SECONDS = 5.0  # of DiDeMo
_REFUSAL_NAMES = {"query": "q", "spans": "timestamp", "clip": BENCHMARK_NAMES["clip"]}
_WINDOW = re.compile(r"<timestep>([^<]*)</timestep>([^<]*)")  # of `think`: when, and what
_CHOICES = ("a0", "a1", "a2", "a3", "a4")
_QUESTION_COLUMNS = ("video_id", "question", "answer", "qid", *_CHOICES)


def _questions(path: Path) -> Iterator[tuple[str, tuple[Fields, Any]]]:
    """Of NExT-GQA, each with what is known of its video."""
    beside = path.with_name(f"gsub_{path.stem}.json")
    if not beside.is_file():
        raise SourceError(f"{path}: the spans of its questions are in {beside}, which is not there")
    videos = read_json(beside)
    if not isinstance(videos, dict):
        raise SourceError(f"{beside}: allowed: one object with an entry for each video")
    yield from ((place, (row, videos.get(row["video_id"]))) for place, row in read_table(path, _QUESTION_COLUMNS))


def _question_rows(entry: tuple[Fields, Any]) -> list[Fields]:
    row, video = entry
    located = video.get("location") if isinstance(video, dict) else None
    if not isinstance(located, dict):
        raise Malformed(describe_fault("video_id", row["video_id"], "a video with a location in the gsub file"))
    choices = [row[name] for name in _CHOICES]
    right = row["answer"]
    fields = {
        **without(row, *_QUESTION_COLUMNS),
        "id": f"{row['video_id']}_{row['qid']}",
        "video": f"{row['video_id']}.mp4",
        "query": row["question"],
        "duration": video.get("duration"),
        "task": "grounded_qa",
        "choices": choices,
        "answer": ascii_uppercase[choices.index(right)] if choices.count(right) == 1 else right,
    }
    return [fields | ({"spans": located[row["qid"]]} if row["qid"] in located else {})]


def _database(path: Path) -> Iterator[tuple[str, tuple[str, Any]]]:
    content = read_json(path)
    videos = content.get("database") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise SourceError(f"{path}: allowed: an object with a database that has an entry for each video")
    yield from ((video, (video, about)) for video, about in videos.items())


def _action_rows(entry: tuple[str, Any]) -> list[Fields]:
    """A row for each label of the video; a video of a hidden test split has none."""
    video, about = entry
    shared = without(about, "annotations", "url", "resolution")
    if isinstance(shared.get("duration"), str):
        shared["duration"] = parse_number(shared["duration"])
    annotations = about.get("annotations")
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise Malformed(describe_fault("annotations", annotations, "a list of {segment, label}"))
    shared |= {"video": f"v_{video}.mp4", "task": "actions"}
    rows: dict[str, Fields] = {}
    for one in annotations:
        labelled = {"query": one["label"]} if "label" in one else {}  # one that is no text stays, to be reported
        rows.setdefault(repr(labelled), {**shared, **labelled, "spans": []})["spans"].append(one.get("segment"))
    return [fields | {"spans": sorted(fields["spans"], key=_by_time)} for fields in rows.values()]


def _by_time(segment: Any) -> tuple[int, Any]:
    """Segments by time, and after them what is none."""
    good = isinstance(segment, list) and all(map(is_number, segment))
    return (0, segment) if good else (1, str(segment))


def _highlight_rows(row: Any) -> list[Fields]:
    fields = rename_fields(without(row, "relevant_clip_ids", "saliency_scores"), BENCHMARK_NAMES)
    if "video" not in fields and isinstance(fields.get("vid"), str):
        fields["video"] = f"{fields['vid']}.mp4"
    clips, scores = row.get("relevant_clip_ids"), row.get("saliency_scores")
    try:
        means = {clip: fmean(of_clip) for clip, of_clip in zip(clips, scores, strict=True)}
        level = min(GOOD, max(means.values()))
        spans = [(CLIP_SECONDS * clip, CLIP_SECONDS * (clip + 1)) for clip, mean in means.items() if mean >= level]
    except (TypeError, ValueError) as error:
        allowed = "relevant_clip_ids and saliency_scores, a list of numbers for each clip"
        raise Malformed(f"{type(error).__name__} {error}; allowed: {allowed}") from error
    if "id" in fields:  # both tasks of a row may be in one file
        fields["id"] = f"{fields['id']}_highlights"
    return [{**fields, "task": "highlights", "spans": list(map(list, merge_spans(spans)))}]


def _didemo_rows(row: Any) -> list[Fields]:
    fields = without(row, "annotation_id", "description", "times", "num_segments", "dl_link")
    try:
        votes = Counter((int(first), int(last)) for first, last in row["times"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        allowed = "times, a list of [first, last] segment"
        raise Malformed(f"{type(error).__name__} {error}; allowed: {allowed}") from error
    agreed = [pair for pair, count in votes.items() if count > 1] or list(votes)
    spans = [[SEGMENT_SECONDS * first, SEGMENT_SECONDS * (last + 1)] for first, last in sorted(agreed)]
    named = {"id": row.get("annotation_id"), "query": row.get("description"), "spans": spans}
    return [with_file_name({**fields, **named})]


def _refusal_rows(row: Any) -> list[Fields]:
    """All of `multi_span`, so that the prompt doesn't tell which occur."""
    fields = rename_fields(without(row, "timestamp", "GRPO", "query_text", "difficulty", "think"), _REFUSAL_NAMES)
    try:
        questions = [(one["q"], _text("a", one["a"]), _truth("r", one["r"]), one) for one in row["GRPO"]]
        occurs = [query for query, _, right, _ in questions if right]
        rows = [
            {
                **fields,
                "task": "multi_span",
                "query": query,
                **(_windows(row, query) if right else {"spans": []}),
                "explanation": _said(text),
                **({"contrast": _said(other)} if (other := next((o for q, o, *_ in questions if q != query), None)) else {}),
                **({} if right else {"level": about.get("difficulty"), "kinds": about.get("c")}),
                **({"answerable_query": occurs[0]} if occurs else {}),
            }
            for query, text, right, about in questions
        ]
    except (KeyError, TypeError) as error:
        allowed = "timestamp, and GRPO, a list of {q, a, r}"
        raise Malformed(f"{type(error).__name__} {error}; allowed: {allowed}") from error
    return [with_file_name(one) for one in rows]


def _windows(row: Fields, query: str) -> Fields:
    """The spans of a query that occurs: all windows that `think` has beside its text, if the timestamp is one of them: those of
    other queries about the video, and rounded ones, are in it, too."""
    first, think = row["timestamp"], row.get("think")
    found = _WINDOW.findall(think) if isinstance(think, str) and isinstance(query, str) else []
    own = {span for times, what in found if what.split() == query.split() for span in spans_in(times)}
    if len(own) < 2 or not isinstance(first, list) or tuple(first) not in own:
        return {"spans": [first]}
    return {"spans": sorted(map(list, own)), "scored_span": first}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed(describe_fault(name, value, "text"))
    return value


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):  # "false" is a text, and would be true
        raise Malformed(describe_fault(name, value, "true or false"))
    return value


def _said(text: str) -> str:
    found = answer_text(text)
    return text if found is None else found


TASK_SOURCES = {
    "nextgqa": Source(_questions, _question_rows, {"query": "question"}),
    "activitynet_v1_3": Source(_database, _action_rows, {"query": "label", "spans": "segment"}),
    "hacs": Source(_database, _action_rows, {"query": "label", "spans": "segment"}),
    "qvhighlights_clips": Source(read_items, _highlight_rows, BENCHMARK_NAMES | {"video": "vid", "spans": "saliency_scores"}),
    "ra_rft": Source(read_items, _refusal_rows, _REFUSAL_NAMES),
    "didemo": Source(read_items, _didemo_rows, {"id": "annotation_id", "query": "description", "spans": "times"}),
}
