import json

import pytest
from public_formats import (
    CHARADES,
    EGO4D,
    LENGTHS,
    QVHIGHLIGHTS,
    RAW,
    TARO,
    TARO_TRAINING,
    TIMER1,
    TVGBENCH,
    converted,
    expected_of,
    lines,
    sample_in,
    write,
)

from taro.prepare.convert import ConvertError, convert, describe
from taro.prepare.sources import SOURCES, SourceError


@pytest.mark.parametrize("source", list(SOURCES))
def test_each_source_becomes_samples(tmp_path, source):
    durations = [write(tmp_path / "lengths.csv", LENGTHS)] if source == "charades" else []
    conversion = converted(tmp_path, source, RAW[source], durations=durations)
    assert list(conversion.samples) == expected_of(source, tmp_path)
    assert not conversion.dropped
    assert [row.sample.id for row in conversion.kept] == (["clip_ann_1"] if source == "ego4d_nlq" else [])


@pytest.mark.parametrize("source", ["qvhighlights", "tvgbench", "timer1", "taro"])
def test_rows_are_a_list_or_lines(tmp_path, source):
    rows = {"qvhighlights": [QVHIGHLIGHTS], "tvgbench": [TVGBENCH], "timer1": [TIMER1], "taro": [TARO]}[source]
    as_list = converted(tmp_path, source, json.dumps(rows, indent=4)).samples
    assert as_list == converted(tmp_path, source, lines(*rows), name="raw.jsonl").samples


def test_separators_within_a_text_end_no_line_and_a_byte_order_mark_is_no_text(tmp_path):
    content = "\ufeff" + lines({**TARO, "query": "a \u2028 b \x85 c"}, {**TARO, "qid": 2})
    first, second = converted(tmp_path, "taro", content).samples
    assert (first.query, second.id) == ("a \u2028 b \x85 c", "2")


def test_charades_as_a_csv(tmp_path):
    content = 'id,start,end,sentence,length,who\nAO8RW,0.0,6.9,"puts, a book",33.67,me\n'
    [sample] = converted(tmp_path, "charades", content, name="raw.csv").samples
    assert sample == sample_in(
        tmp_path, "AO8RW_0", "AO8RW.mp4", "puts, a book", (0.0, 6.9), duration=33.67, extra={"who": "me"}
    )


def test_a_csv_may_leave_the_lengths_to_durations_and_commas_outside_of_quotes_are_no_sentence(tmp_path):
    lengths = write(tmp_path / "lengths.csv", LENGTHS)
    content = "id,start,end,sentence\n3MSZA,1,2,sits\n3MSZA,1,2,sits, then stands\n"
    conversion = converted(tmp_path, "charades", content, name="raw.csv", durations=[lengths], bad_rows="drop")
    assert [sample.query for sample in conversion.samples] == ["sits"]
    assert "line 3: " in describe(conversion, tmp_path / "out.jsonl")
    assert "beyond the last column" in conversion.dropped[0].faults[0].message


# (source, its raw file, what the message says of each row that can't be a sample)
UNUSABLE = [
    (
        "charades",
        "AO8RW 0.0##x\nAO8RW a 2##x\nZZZZZ 1 2##x",
        [
            "line 1: got",
            'line 2: [start, end][0]: got ["a", 2.0]',
            "line 3: duration (not in --durations, and no --video_root to read it): got nothing",
        ],
    ),
    ("activitynet", {"v": {"duration": 9, "timestamps": [[0, 1]], "sentences": []}}, ["raw.json v: timestamps: got [[0, 1]]"]),
    (
        "activitynet",
        {"v": 3, "w": {"timestamps": [[0, 1]], "sentences": ["a"]}},
        ["v: got 3", "w: duration (not in --durations, and no --video_root to read it): got nothing"],
    ),
    (
        "activitynet",
        {"v": {"duration": 9, "timestamps": [[0, 1], [0]], "sentences": ["", "a"]}},
        ["v sentence 1: sentence: got", "v sentence 2: timestamps[0]: got [0]"],
    ),
    ("qvhighlights", lines({**QVHIGHLIGHTS, "qid": None}), ["qid: got null"]),
    (
        "qvhighlights",
        lines({k: v for k, v in QVHIGHLIGHTS.items() if k != "relevant_windows"}),
        ["relevant_windows: got nothing"],
    ),
    (
        "tvgbench",
        [{**TVGBENCH, "answer": "5-"}, {**TVGBENCH, "answer": "1-2-3"}, {**TVGBENCH, "answer": 5}, "x"],
        ['answer[0]: got [5.0, ""]', "answer[0]: got [1.0, 2.0, 3.0]", "answer: got 5", 'row 4: got "x"'],
    ),
    (
        "tvgbench",
        [{**TVGBENCH, "end": None}, {"path": "a.mp4"}],
        [
            "[start, end]: got [53.0, null]",
            "row 2: question: got nothing",
            "duration (not in --durations, and no --video_root to read it): got nothing",
        ],
    ),
    ("timer1", [TIMER1, TIMER1], ["row 2: qid: got", "raw.json row 1 has it too"]),
    (
        "timer1",
        [{**TIMER1, "sentence": ""}, {**TIMER1, "qid": 2, "duration": "x", "timestamp": [1, None]}],
        ['sentence: got ""', "row 2: timestamp[0]: got [1, null]", 'duration: got "x"'],
    ),
    (
        "tacos",
        {"a": {"timestamps": [[1, 2]], "sentences": ["x"], "num_frames": 100, "fps": 0}},
        ["num_frames, fps: got [100, 0]"],
    ),
    ("tacos", {"a": {"timestamps": ["x"], "sentences": ["x"], "num_frames": 100, "fps": 10}}, ['timestamps[0]: got "x"']),
    ("taro", [{**TARO, "video_file": 3}, {**TARO, "spans": [[1, 2]]}], ["video_file: got 3", "a sample already"]),
    (
        "taro",
        [{**TARO_TRAINING, "prompt": []}, {**TARO_TRAINING, "prompt": [{"content": "find it"}]}],
        ["row 1: ValueError", 'row 2: prompt: got "find it"'],
    ),
]


@pytest.mark.parametrize("source, content, messages", UNUSABLE)
def test_rows_that_cannot_be_samples_stop_the_conversion_and_are_all_named(tmp_path, source, content, messages):
    lengths = [write(tmp_path / "lengths.csv", LENGTHS)]
    with pytest.raises(ConvertError) as error:
        converted(tmp_path, source, content, durations=lengths)
    text = str(error.value)
    assert all(message in text for message in messages), text
    assert "; allowed: " in text
    assert "--bad_rows drop" in text and not (tmp_path / "out.jsonl").exists()


def test_queries_and_truths_that_ego4d_does_not_give_are_named(tmp_path):
    data = json.loads(json.dumps(EGO4D))
    queries = data["videos"][0]["clips"][0]["annotations"][0]["language_queries"]
    queries += [
        {"clip_start_sec": 1, "clip_end_sec": 2},
        {"clip_start_sec": 1, "clip_end_sec": 2, "query": None},
        {"query": "x"},
    ]
    conversion = converted(tmp_path, "ego4d_nlq", data, bad_rows="drop")
    assert [sample.id for sample in conversion.samples] == ["clip_ann_0", "clip_ann_1"]
    assert [row.place[-10:] for row in conversion.dropped] == ["sentence 3", "sentence 4", "sentence 5"]
    assert [row.faults[0].kind for row in conversion.dropped] == ["empty_query", "empty_query", "unreadable"]
    text = describe(conversion, tmp_path / "out.jsonl")
    assert "left out, for they can't be samples: 3" in text and "[clip_start_sec, clip_end_sec]: got nothing" in text


@pytest.mark.parametrize(
    "source, content, message",
    [
        ("activitynet", [TIMER1], "one object with an entry for each video"),
        ("activitynet", "x", "raw.json: not JSON"),
        ("timer1", '[{"a": 1}', "raw.json: not JSON"),
        ("timer1", '{"a": 1}\n{"a"', "raw.json line 2: not JSON"),
        ("ego4d_nlq", {"clips": []}, "KeyError 'videos'"),
        ("ego4d_nlq", {"videos": [{"clips": None}]}, "TypeError"),
        ("charades", "id,start\nx,1\n", "no column end, sentence"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, source, content, message):
    with pytest.raises(SourceError) as error:
        converted(tmp_path, source, content, name="raw.csv" if source == "charades" else "raw.json")
    assert message in str(error.value)


def test_files_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "raw.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="no text in UTF-8"):
        convert("timer1", [path], tmp_path / "out.jsonl")


@pytest.mark.parametrize("length", ["", "long", "0", "-1", "nan"])
def test_lengths_are_numbers_above_0(tmp_path, length):
    with pytest.raises(SourceError, match=r"lengths\.csv line 3: length: got .*allowed: a number above 0"):
        durations = [write(tmp_path / "lengths.csv", f"id,length\nAO8RW,3\n3MSZA,{length}\n")]
        converted(tmp_path, "charades", CHARADES, durations=durations)
