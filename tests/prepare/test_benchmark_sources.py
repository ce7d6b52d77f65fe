import json
from pathlib import Path

import pytest
from public_formats import converted, lines, sample_in, write

from taro.prepare.benchmark_sources import BENCHMARK_SOURCES
from taro.prepare.convert import ConvertError, convert, find_licenses
from taro.prepare.sources import SourceError

TIMELENS = {"AO8RW": {"duration": 33.67, "spans": [[0.0, 6.9], [8, 9]], "queries": ["a person waves.", "he sits"]}}
VUE_TR = {
    "query_id": 6,
    "video_id": "wHq",
    "duration": 172.432,
    "query": "bookshelf",
    "gt": [[12, 31], [48, 60]],
    "task": "temporal_retrieval",
    "duration_category": "short",
    "query_format": "keyword",
    "query_modality": "vision",
}
PROMPT = "Please watch, according to the given textual query {}, and determine all intervals as [[start1, end1], ...]."
OMTG = f"""index\tvideo\tquestion\tanswer\tkind
7\ta.mp4\t{PROMPT.format("'the man's dog runs'")}\t<time>3.5 - 5 seconds</time>, <time>1:02 - 1:03:04.5 seconds</time>\tx
8\tb.mp4\twhen does it rain?\t[[1, 2]]\ty
"""
EXTREME = {
    "qid": "-Wn_q042",
    "video_id": "-Wn",
    "source_corpus": "VideoMME",
    "question": "When does she speak?",
    "correct_interval": [1805, 1822],
    "duration_s": 17,
    "video_duration_s": 4271,
}
VSTAR = {
    "vid": "v1",
    "domain": "Sports",
    "fps": 30,
    "frame_count": 905,
    "question": "what is it?",
    "answer": "a ball",
    "temporal_question": "When is the ball thrown?",
    "timestamps": [3, 5.5],
    "bboxes": [{"timestamp": 3, "xmin": 0}],
}
MOMENT = {
    "qry_text": "a player scores",
    "qry_img_path": "",
    "qry_video_path": "",
    "src_video_path": "./videos/sport_12.mp4",
    "task": "Action Recognition",
    "answering_time_interval": [[10.0, 25.0], [80.0, 95.0]],
}
TOMATO = {
    "0": {
        "question": "Which way?",
        "options": ["Left.", "Right.", "Up."],
        "answer": 2,
        "key": "0215-08",
        "motion_type": "direction",
        "demonstration_type": "human",
    }
}


def assert_converted(folder, source, content, *expected, **settings):
    assert list(converted(folder, source, content, **settings).samples) == list(expected)


def test_timelens(tmp_path):
    about = {"duration": 33.67}
    assert_converted(
        tmp_path,
        "timelens",
        TIMELENS,
        sample_in(tmp_path, "AO8RW_0", "AO8RW.mp4", "a person waves.", (0.0, 6.9), **about),
        sample_in(tmp_path, "AO8RW_1", "AO8RW.mp4", "he sits", (8.0, 9.0), **about),
    )
    [license] = find_licenses("timelens", [Path("charades-timelens.json")])
    assert "academic use only" in license and "not for use within the European Union" in license


def test_vue_tr(tmp_path):
    extra = {name: VUE_TR[name] for name in ("duration_category", "query_format", "query_modality")}
    about = {"duration": 172.432, "task": "multi_span", "extra": extra}
    spans = (12.0, 31.0), (48.0, 60.0)
    expected = sample_in(tmp_path, "6", "wHq.mp4", "bookshelf", *spans, **about)
    assert_converted(tmp_path, "vue_tr", json.dumps([VUE_TR]), expected)


def test_omtg_by_what_the_prompt_quotes_and_the_lengths_of_the_files(tmp_path):
    lengths = [write(tmp_path / "lengths.csv", "id,length\na,4000\nb,9\n")]
    assert_converted(
        tmp_path,
        "omtg",
        OMTG,
        sample_in(
            tmp_path,
            "7",
            "a.mp4",
            "the man's dog runs",
            (3.5, 5.0),
            (62.0, 3784.5),
            duration=4000.0,
            task="multi_span",
            extra={"kind": "x"},
        ),
        sample_in(
            tmp_path, "8", "b.mp4", "when does it rain?", (1.0, 2.0), duration=9.0, task="multi_span", extra={"kind": "y"}
        ),
        name="raw.tsv",
        durations=lengths,
    )


def test_extremewhenbench(tmp_path):
    about = {"duration": 4271.0, "extra": {"source_corpus": "VideoMME", "duration_s": 17}}
    expected = sample_in(tmp_path, "-Wn_q042", "-Wn.mp4", "When does she speak?", (1805.0, 1822.0), **about)
    assert_converted(tmp_path, "extremewhenbench", lines(EXTREME), expected, name="raw.jsonl")


def test_vstar(tmp_path):
    extra = {name: VSTAR[name] for name in ("domain", "fps", "frame_count", "question", "answer")}
    about = {"duration": 30.17, "extra": extra}
    expected = sample_in(tmp_path, "v1_0", "v1.mp4", "When is the ball thrown?", (3.0, 5.5), **about)
    assert_converted(tmp_path, "vstar", json.dumps([VSTAR]), expected)


def test_momentseeker(tmp_path):
    lengths = [write(tmp_path / "lengths.csv", "id,length\nsport_12,500\n")]
    about = {"duration": 500.0, "task": "multi_span", "extra": {"moment_task": "Action Recognition"}}
    spans = (10.0, 25.0), (80.0, 95.0)
    expected = sample_in(tmp_path, "sport_12_0", "sport_12.mp4", "a player scores", *spans, **about)
    assert_converted(tmp_path, "momentseeker", json.dumps([MOMENT]), expected, durations=lengths)


def test_tomato(tmp_path):
    lengths = [write(tmp_path / "lengths.csv", "id,length\n0215-08,4.5\n")]
    extra = {"motion_type": "direction", "demonstration_type": "human", "choices": ["Left.", "Right.", "Up."], "answer": "C"}
    about = {"duration": 4.5, "task": "multiple_choice", "extra": extra}
    expected = sample_in(tmp_path, "direction_0", "human/0215-08.mp4", "Which way?", **about)
    assert_converted(tmp_path, "tomato", TOMATO, expected, durations=lengths)


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("timelens", {"a": {"duration": 9, "spans": [[0, 1]], "queries": []}}, r"spans: got \[\[0, 1\]\], queries: got \[\]"),
        ("vue_tr", [{**VUE_TR, "gt": [12, 31]}], r"gt\[0\]: got 12"),
        ("omtg", OMTG.replace("[[1, 2]]", "never"), 'line 3: answer: got "never"; allowed: the start and the end of each span'),
        ("extremewhenbench", [{**EXTREME, "correct_interval": None}], r"correct_interval\[0\]: got null"),
        ("vstar", [{**VSTAR, "fps": 0}], r"frame_count, fps: got \[905, 0\]; allowed: numbers above 0"),
        ("momentseeker", [{**MOMENT, "qry_img_path": "a.png"}], 'got "a.png"; allowed: a query of words alone, as in t2v.json'),
        ("tomato", {"0": {**TOMATO["0"], "answer": 3}}, "IndexError string index out of range; allowed: question, options"),
        ("momentseeker", [MOMENT], "duration .not in --durations, and no --video_root to read it.: got nothing"),
    ],
)
def test_what_cannot_be_a_sample(tmp_path, source, content, message):
    with pytest.raises(ConvertError, match=message):
        convert(source, [write(tmp_path / "raw.json", content)], tmp_path / "out.jsonl")


@pytest.mark.parametrize("source", BENCHMARK_SOURCES)
def test_another_format_is_refused(tmp_path, source):
    with pytest.raises((SourceError, ConvertError)):
        convert(source, [write(tmp_path / "raw.json", '{"a": 1}\n')], tmp_path / "out.jsonl")
