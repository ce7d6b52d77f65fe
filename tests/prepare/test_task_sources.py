import json
import math

import pytest
from public_formats import QVHIGHLIGHTS, converted, lines, sample_in, write

from taro.prepare.benchmark_sources import BENCHMARK_SOURCES
from taro.prepare.convert import ALL_SOURCES, ConvertError, convert
from taro.prepare.sources import SOURCES, SourceError
from taro.prepare.task_sources import TASK_SOURCES

QUESTIONS = """video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4
48,2697,640,480,why did the boy move,unwrap it,1,CW,share,approach the lady,unwrap it,play,gesture
48,2697,640,480,what does he do then,sit,3,TN,sit,run,"jump, twice",eat,look
"""
LOCATED = {"48": {"duration": 34, "location": {"1": [[1.2, 5.8]], "3": [[12.1, 17.1], [20.0, 23.5]]}, "fps": 29.97}}
DATABASE = {
    "version": "VERSION 1.3",
    "database": {
        "a": {
            "duration": 90.5,
            "subset": "training",
            "resolution": "320x240",
            "url": "u",
            "annotations": [
                {"segment": [40.0, 50.0], "label": "Archery"},
                {"segment": [5.4, 11.6], "label": "Archery"},
                {"segment": [60.0, 70.0], "label": "Bowling"},
            ],
        },
        "b": {"duration": "12.5", "subset": "validation", "annotations": [{"label": "Bowling", "segment": [1, 2]}]},
        "c": {"duration": 7.0, "subset": "testing", "annotations": []},
    },
}
DIDEMO = {
    "num_segments": 6,
    "description": "someone kicks the bug.",
    "dl_link": "https://example.org",
    "times": [[4, 4], [4, 5], [0, 0], [4, 4], [0, 0]],
    "video": "26@N04_42.m4v",
    "annotation_id": 1,
}
REFUSALS = [
    {
        "video": "/some/where/A.mp4",
        "query_text": "a dog runs.",
        "timestamp": [2.5, 6.0],
        "difficulty": None,
        "video_start": None,
        "video_end": None,
        "think": "<think>...</think>",
        "duration": 20.0,
        "GRPO": [
            {"q": "a dog runs.", "a": "<answer>2.5 to 6.0</answer>", "r": True, "difficulty": "original"},
            {"q": "a cat runs.", "a": "<answer>There is no cat.</answer>", "r": False, "c": ["Object"], "difficulty": "hard"},
        ],
    },
    {
        "video": "B.mp4",
        "timestamp": [0, 4],
        "video_start": 30,
        "video_end": 42.5,
        "duration": 12.5,
        "GRPO": [{"q": "it rains", "a": "Unrelated.", "r": False, "c": []}],
    },
]


def test_the_names_are_of_one_source_each():
    assert sorted(ALL_SOURCES) == sorted([*SOURCES, *TASK_SOURCES, *BENCHMARK_SOURCES])


def test_questions_with_evidence(tmp_path):
    write(tmp_path / "gsub_val.json", LOCATED)
    first, second = converted(tmp_path, "nextgqa", QUESTIONS, name="val.csv").samples
    about = {"frame_count": "2697", "width": "640", "height": "480"}
    choices = ["share", "approach the lady", "unwrap it", "play", "gesture"]
    extra = {**about, "type": "CW", "choices": choices, "answer": "C"}
    expected = sample_in(tmp_path, "48_1", "48.mp4", "why did the boy move", (1.2, 5.8), duration=34.0, task="grounded_qa")
    assert (first.extra, second.extra["answer"], second.spans) == (extra, "A", ((12.1, 17.1), (20.0, 23.5)))
    assert vars(first) | {"extra": {}} == vars(expected) | {"extra": {}}


def test_questions_that_are_no_samples(tmp_path):
    path = write(tmp_path / "test.csv", QUESTIONS.replace("unwrap it,1,", "something else,1,"))
    with pytest.raises(SourceError, match=r"the spans of its questions are in .*gsub_test\.json, which is not there"):
        convert("nextgqa", [path], tmp_path / "out.jsonl")
    write(tmp_path / "gsub_test.json", {"48": {"duration": 34, "location": {"1": [[1, 2]]}}, "x": 3})
    with pytest.raises(ConvertError) as error:
        convert("nextgqa", [path], tmp_path / "out.jsonl")
    assert 'answer: got "something else"; allowed: the letter of a choice, A to E' in str(error.value)
    assert "spans: got nothing" in str(error.value)
    write(tmp_path / "gsub_test.json", {})
    with pytest.raises(ConvertError, match='video_id: got "48"; allowed: a video with a location in the gsub file'):
        convert("nextgqa", [path], tmp_path / "out.jsonl")


@pytest.mark.parametrize("source", ["activitynet_v1_3", "hacs"])
def test_all_occurrences_of_a_label_are_one_row(tmp_path, source):
    samples = converted(tmp_path, source, DATABASE).samples
    training = {"task": "actions", "extra": {"subset": "training"}, "duration": 90.5}
    assert list(samples) == [
        sample_in(tmp_path, "v_a_0", "v_a.mp4", "Archery", (5.4, 11.6), (40.0, 50.0), **training),
        sample_in(tmp_path, "v_a_1", "v_a.mp4", "Bowling", (60.0, 70.0), **training),
        sample_in(
            tmp_path, "v_b_0", "v_b.mp4", "Bowling", (1.0, 2.0), duration=12.5, task="actions", extra={"subset": "validation"}
        ),
    ]


def test_malformed_actions(tmp_path):
    for content, message in (
        ({"videos": {}}, "an object with a database"),
        ([1], "an object with a database"),
    ):
        with pytest.raises(SourceError, match=message):
            convert("hacs", [write(tmp_path / "raw.json", content)], tmp_path / "out.jsonl")
    unnamed = {"duration": 9, "annotations": [{"segment": [1, 2]}, {"label": ["x"], "segment": [1, 2]}, {"label": "None"}]}
    unnamed["annotations"] += [{"label": None, "segment": [3, 4]}]
    with pytest.raises(ConvertError) as error:
        convert("hacs", [write(tmp_path / "raw.json", {"database": {"a": unnamed}})], tmp_path / "out.jsonl")
    said = str(error.value)
    assert "4 of 4 rows can't be samples" in said and "sentence 1: label: got nothing (the field is missing)" in said
    assert 'sentence 2: label: got ["x"]' in said and "sentence 4: label: got null" in said
    bad = {"a": {"duration": 9, "annotations": [{"label": "x", "segment": None}, {"label": "x", "segment": [1, 2]}]}, "b": 3}
    with pytest.raises(ConvertError, match=r"(?s)segment\[1\]: got null.*b: got 3; allowed: an object"):
        convert("hacs", [write(tmp_path / "raw.json", {"database": bad})], tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("clips", "scores", "spans"),
    [
        ([3, 4, 9], [[4, 3, 2], [4, 4, 4], [3, 3, 3]], ((6.0, 10.0), (18.0, 20.0))),
        ([3, 4, 9], [[1, 1, 1], [2, 2, 2], [2, 2, 2]], ((8.0, 10.0), (18.0, 20.0))),  # none is good: the best
    ],
)
def test_highlights_are_the_clips_with_good_scores(tmp_path, clips, scores, spans):
    row = {**QVHIGHLIGHTS, "relevant_clip_ids": clips, "saliency_scores": scores}
    [sample] = converted(tmp_path, "qvhighlights_clips", lines(row), name="raw.jsonl").samples
    assert (sample.id, sample.task, sample.spans) == ("8737_highlights", "highlights", spans)
    assert sample.video == str(tmp_path / "bP5_660.0_810.0.mp4") and sample.extra == {"vid": "bP5_660.0_810.0"}


@pytest.mark.parametrize("scores", [None, [[1, 2, 3]], [[], []], [["x"], [1]]])
def test_highlights_without_scores_are_no_samples(tmp_path, scores):
    path = write(tmp_path / "raw.jsonl", lines({**QVHIGHLIGHTS, "saliency_scores": scores}))
    with pytest.raises(ConvertError, match="allowed: relevant_clip_ids and saliency_scores"):
        convert("qvhighlights_clips", [path], tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("times", "spans"),
    [
        (DIDEMO["times"], ((0.0, 5.0), (20.0, 25.0))),  # two agree on each
        ([[4, 5], [1, 1]], ((5.0, 10.0), (20.0, 30.0))),
    ],
)
def test_moments_that_annotators_agree_on_are_alternatives(tmp_path, times, spans):
    durations = [write(tmp_path / "lengths.csv", "id,length\n26@N04_42,30.0\n")]
    [sample] = converted(tmp_path, "didemo", json.dumps([{**DIDEMO, "times": times}]), durations=durations).samples
    assert sample == sample_in(tmp_path, "1", "26@N04_42.m4v", "someone kicks the bug.", *spans, duration=30.0)
    for bad in ([[1]], [[math.inf, 2]], [[math.nan, 2]], 3):
        with pytest.raises(ConvertError, match=r"allowed: times, a list of \[first, last\] segment"):
            convert("didemo", [write(tmp_path / "bad.json", [{**DIDEMO, "times": bad}])], tmp_path / "out.jsonl")


TWICE = {
    "video": "C.mp4",
    "timestamp": [2, 10],
    "duration": 80.0,
    "think": "<think>\n<timestep>2 to 10</timestep> a dog runs. <timestep>16 to 70</timestep> it rains. "
             "<timestep>22 to 32</timestep> a dog runs. <timestep>62.5 to 72</timestep> a dog runs.\n</think>",
    "GRPO": [
        {"q": "a dog runs.", "a": "<answer>2 to 10</answer>", "r": True},
        {"q": "a cat runs.", "a": "This query is unrelated to the video.", "r": False},
    ],
}  # fmt: skip


def test_all_windows_of_a_query_are_true(tmp_path):
    """And none of another query; the one that the authors score with is kept beside them."""
    first, second = converted(tmp_path, "ra_rft", json.dumps([TWICE])).samples
    assert first.spans == ((2.0, 10.0), (22.0, 32.0), (62.5, 72.0)) and first.extra["scored_span"] == [2, 10]
    assert second.spans == () and "scored_span" not in second.extra


@pytest.mark.parametrize(
    "change",
    [
        {"timestamp": [3, 10]},  # no window of `think`
        {"think": "<think>\n<timestep>2 to 10</timestep> a dog runs.\n</think>"},
        {"think": "<think>\n\n</think>"},
        {"think": None},
    ],
)
def test_the_timestamp_alone_is_true_where_there_is_no_other_window(tmp_path, change):
    sample, _ = converted(tmp_path, "ra_rft", json.dumps([TWICE | change])).samples
    assert sample.spans == (tuple(map(float, (TWICE | change)["timestamp"])),) and "scored_span" not in sample.extra


def test_queries_that_occur_and_that_do_not(tmp_path):
    first, second, third = converted(tmp_path, "ra_rft", json.dumps(REFUSALS)).samples
    assert {one.task for one in (first, second, third)} == {"multi_span"}
    assert (first.query, first.spans) == ("a dog runs.", ((2.5, 6.0),))
    told = {"explanation": "2.5 to 6.0", "contrast": "There is no cat.", "answerable_query": "a dog runs."}
    assert first.extra == told
    why = {"explanation": "There is no cat.", "contrast": "2.5 to 6.0", "level": "hard", "kinds": ["Object"]}
    why |= {"answerable_query": "a dog runs."}
    assert (second.query, second.spans, second.extra) == ("a cat runs.", (), why)
    assert first.video == second.video == str(tmp_path / "A.mp4") and first.duration == 20.0 and first.id != second.id
    assert (third.clip, third.duration, third.spans) == ((30.0, 42.5), 12.5, ())
    assert third.extra["explanation"] == "Unrelated." and "answerable_query" not in third.extra
    for broken in ({"GRPO": None}, {"GRPO": [{"q": "x"}]}, {"timestamp": 3}):
        with pytest.raises(ConvertError, match=r"allowed: timestamp, and GRPO, a list of \{q, a, r\}|timestamp\[0\]: got 3"):
            convert("ra_rft", [write(tmp_path / "bad.json", [REFUSALS[0] | broken])], tmp_path / "out.jsonl")
    for broken, problem in (
        ({"a": None}, "a: got null; allowed: text"),
        ({"r": "false"}, 'r: got "false"; allowed: true or false'),
        ({"q": 3}, "q: got 3; allowed: text"),
    ):
        with pytest.raises(ConvertError, match=problem):
            row = REFUSALS[0] | {"GRPO": [REFUSALS[0]["GRPO"][0] | broken]}
            convert("ra_rft", [write(tmp_path / "bad.json", [row])], tmp_path / "out.jsonl")
