"""Small files of each public format, made by hand, and the real ones where they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from taro.data.rows import SPAN_FAULTS
from taro.data.samples import Caption, Sample, load_samples
from taro.prepare.convert import ConvertError, convert, describe, main
from taro.prepare.sources import SOURCES, SourceError

ANNOTATIONS = Path(__file__).resolve().parents[3] / "shared" / "annotations"


def annotation_file(name):
    path = ANNOTATIONS / name
    if not path.exists():
        pytest.skip(f"{path} is not there: the real annotation files are not part of the repository")
    return path


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(*rows):
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def converted(folder, source, content, name="raw.json", **settings):
    """The conversion of one file, whose samples are those that the output gives back."""
    output = folder / "out.jsonl"
    conversion = convert(source, [write(folder / name, content)], output, **settings)
    assert load_samples(output, bad_rows="keep", video_root=settings.get("video_root")) == list(conversion.samples)
    return conversion


def sample_in(folder, id, video, query, *spans, **more):
    return Sample(id, str(folder / video), query, spans, **more)


LENGTHS = "id,subject,length\nAO8RW,X,33.67\n3MSZA,Y,31.0\n"
CHARADES = "AO8RW 0.0 6.9##a person puts a book away.\n3MSZA 24.3 30.4##person turns, light on.\nAO8RW 1 2##x##y\n"
ACTIVITYNET = {
    "v_a": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": ["A man waxes.", " He stops."],
        "x": 1,
    },
    "v_b": {"duration": 5, "timestamps": [[0, 5]], "sentences": ["All."]},
}
QVHIGHLIGHTS = {
    "qid": 8737,
    "query": "A family plays.",
    "duration": 126,
    "vid": "bP5_660.0_810.0",
    "relevant_windows": [[0, 16], [20, 22]],
    "relevant_clip_ids": [0, 1],
    "saliency_scores": [[4, 1, 1], [4, 2, 1]],
}
TVGBENCH = {
    "path": "./dataset/tvgbench_data/aHD.mp4",
    "question": "check the gas",
    "answer": "9.94-45.5",
    "start": 53.0,
    "end": 152.0,
    "duration": 99.0,
    "qsemtype": "Object Transition",
}
TIMER1 = {
    "video": "./videos/QtW_00:00:39:000_00:01:24:700.mp4",
    "duration": 45.7,
    "timestamp": [1.0, 4.0],
    "sentence": "A hanger.",
    "qid": "my|cosmo|QtW|A hanger.",
    "video_start": 39.0,
    "video_end": 84.7,
    "difficulty": 50.0,
}
TACOS = {
    "s13-d21.avi": {
        "num_frames": 3000,
        "fps": 30,
        "timestamps": [[252, 452], [600, 900]],
        "sentences": ["He washes.", "He cuts."],
    }
}
TARO = {
    "qid": "test0",
    "query": "a person sits",
    "video_start": None,
    "video_end": None,
    "duration": 30.12,
    "vid": "KWZSA",
    "relevant_windows": [[13.4, 28.1]],
    "video_file": "KWZSA.mp4",
}
TARO_TRAINING = {
    "data_source": "vtgbench",
    "prompt": [{"role": "user", "content": '<video>Pinpoint the event "a "big" dog" in the video, say "when" in the answer.'}],
    "videos": ["data/tvgbench_data/f04.mp4"],
    "video_start": 329.27,
    "video_end": 454.71,
    "reward_model": {"style": "rule", "ground_truth": [79.09, 81.67]},
    "extra_info": {"split": "test", "index": 796, "duration": 125.44},
}
EGO4D = {
    "version": "1",
    "videos": [
        {
            "video_uid": "vid",
            "clips": [
                {
                    "clip_uid": "clip",
                    "video_start_sec": 100.0,
                    "video_end_sec": 580.0,
                    "annotations": [
                        {
                            "annotation_uid": "ann",
                            "language_queries": [
                                {
                                    "clip_start_sec": 1.5,
                                    "clip_end_sec": 4,
                                    "query": "Where is it?",
                                    "template": "T",
                                    "slot_x": "it",
                                },
                                {"clip_start_sec": 7.0, "clip_end_sec": 7.0, "query": "What?", "video_start_sec": 107.0},
                            ],
                        }
                    ],
                }
            ],
        }
    ],
}


def expected_of(source, folder):
    def sample(*values, **more):
        return sample_in(folder, *values, **more)

    uids = {"video_uid": "vid", "clip_uid": "clip", "annotation_uid": "ann"}
    return {
        "charades": [
            sample("AO8RW_0", "AO8RW.mp4", "a person puts a book away.", (0.0, 6.9), duration=33.67),
            sample("3MSZA_0", "3MSZA.mp4", "person turns, light on.", (24.3, 30.4), duration=31.0),
            sample("AO8RW_1", "AO8RW.mp4", "x##y", (1.0, 2.0), duration=33.67),
        ],
        "activitynet": [
            sample("v_a_0", "v_a.mp4", "A man waxes.", (0.83, 19.86), duration=82.73, extra={"x": 1}),
            sample("v_a_1", "v_a.mp4", " He stops.", (17.37, 60.81), duration=82.73, extra={"x": 1}),
            sample("v_b_0", "v_b.mp4", "All.", (0.0, 5.0), duration=5.0),
        ],
        "qvhighlights": [
            sample(
                "8737",
                "bP5_660.0_810.0.mp4",
                "A family plays.",
                (0.0, 16.0),
                (20.0, 22.0),
                duration=126.0,
                extra={name: QVHIGHLIGHTS[name] for name in ("vid", "relevant_clip_ids", "saliency_scores")},
            )
        ],
        "tvgbench": [
            sample(
                "aHD_0",
                "aHD.mp4",
                "check the gas",
                (9.94, 45.5),
                duration=99.0,
                clip=(53.0, 152.0),
                extra={"qsemtype": "Object Transition"},
            )
        ],
        "timer1": [
            sample(
                "my|cosmo|QtW|A hanger.",
                "QtW_00:00:39:000_00:01:24:700.mp4",
                "A hanger.",
                (1.0, 4.0),
                duration=45.7,
                clip=(39.0, 84.7),
                extra={"difficulty": 50.0},
            )
        ],
        "tacos": [
            sample(
                "s13-d21_0", "s13-d21.avi", "He washes.", (8.4, 452 / 30), duration=100.0, extra={"num_frames": 3000, "fps": 30}
            ),
            sample("s13-d21_1", "s13-d21.avi", "He cuts.", (20.0, 30.0), duration=100.0, extra={"num_frames": 3000, "fps": 30}),
        ],
        "ego4d_nlq": [
            sample(
                "clip_ann_0",
                "clip.mp4",
                "Where is it?",
                (1.5, 4.0),
                duration=480.0,
                extra={"template": "T", "slot_x": "it", **uids},
            ),
            sample("clip_ann_1", "clip.mp4", "What?", (7.0, 7.0), duration=480.0, extra={"video_start_sec": 107.0, **uids}),
        ],
        "taro": [
            sample("test0", "KWZSA.mp4", "a person sits", (13.4, 28.1), duration=30.12, extra={"vid": "KWZSA"}),
            sample(
                "test796",
                "f04.mp4",
                'a "big" dog',
                (79.09, 81.67),
                duration=125.44,
                clip=(329.27, 454.71),
                extra={"data_source": "vtgbench", "extra_info": TARO_TRAINING["extra_info"]},
            ),
        ],
    }[source]


RAW = {
    "charades": CHARADES,
    "activitynet": ACTIVITYNET,
    "qvhighlights": lines(QVHIGHLIGHTS),
    "tvgbench": [TVGBENCH],
    "timer1": [TIMER1],
    "tacos": TACOS,
    "ego4d_nlq": EGO4D,
    "taro": [TARO, TARO_TRAINING],
}


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


def test_ids_are_the_same_whatever_was_dropped_and_go_on_over_files(tmp_path):
    first = write(tmp_path / "val_1.json", {"v": {"duration": 9, "timestamps": [[0, 1], [1, 2]], "sentences": ["", "a"]}})
    second = write(tmp_path / "val_2.json", {"v": {"duration": 9, "timestamps": [[0, 3]], "sentences": ["b"]}})
    conversion = convert("activitynet", [first, second], tmp_path / "out.jsonl", bad_rows="drop")
    assert [(sample.id, sample.query) for sample in conversion.samples] == [("v_1", "a"), ("v_2", "b")]


@pytest.mark.parametrize(
    "span, kind",
    [
        ([3.0, 3.0], "zero_length_span"),
        ([4.0, 3.0], "reversed_span"),
        ([8.0, 11.0], "span_partly_outside"),
        ([11.0, 12.0], "span_outside"),
        ([8.0, 14220.0], "span_far_outside"),
    ],
)
def test_misplaced_truths_are_kept_as_they_are_and_counted(tmp_path, span, kind):
    good = {**TIMER1, "qid": "good", "duration": 10.0, "video_start": None, "video_end": None}
    conversion = converted(tmp_path, "timer1", [good, {**good, "qid": "bad", "timestamp": span}])
    assert conversion.samples[1].spans == (tuple(span),)
    assert [(row.place, row.sample.id) for row in conversion.kept] == [("raw.json row 2", "bad")]
    assert [fault.kind for fault in conversion.kept[0].faults] == [kind]
    text = describe(conversion, tmp_path / "out.jsonl")
    assert "2 samples of 1 videos, 0 of them clips" in text and "kept as they are: 1 where a span" in text
    assert "(raw.json row 2)" in text and "left out" not in text


def test_a_clip_that_is_not_as_long_as_the_duration_is_kept_and_counted(tmp_path):
    conversion = converted_without_loading(tmp_path, "timer1", [{**TIMER1, "video_end": 184.7}])
    assert conversion.samples[0].clip == (39.0, 184.7)
    assert "1 where the clip's length is not the duration" in describe(conversion, tmp_path / "out.jsonl")


def converted_without_loading(folder, source, content):
    return convert(source, [write(folder / "raw.json", content)], folder / "out.jsonl")


# (source, its raw file, what the message says of each row that can't be a sample)
UNUSABLE = [
    (
        "charades",
        "AO8RW 0.0##x\nAO8RW a 2##x\nZZZZZ 1 2##x",
        [
            "line 1: got",
            'line 2: [start, end][0]: got ["a", 2.0]',
            "line 3: duration (the video is in no file of --durations): got nothing",
        ],
    ),
    ("activitynet", {"v": {"duration": 9, "timestamps": [[0, 1]], "sentences": []}}, ["raw.json v: timestamps: got [[0, 1]]"]),
    (
        "activitynet",
        {"v": 3, "w": {"timestamps": [[0, 1]], "sentences": ["a"]}},
        ["v: got 3", "w: duration (the video is in no file of --durations): got nothing"],
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
            "duration (the video is in no file of --durations): got nothing",
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


def test_ids_that_two_files_share_are_named(tmp_path):
    paths = [write(tmp_path / name, [TARO]) for name in ("a.json", "b.json")]
    with pytest.raises(ConvertError, match=r"b\.json row 1: qid: .*a\.json row 1 has it too"):
        convert("taro", paths, tmp_path / "out.jsonl")


def test_nothing_is_written_where_no_sample_is_left(tmp_path):
    with pytest.raises(ConvertError, match=r"no samples \(1 rows read\)"):
        converted(tmp_path, "timer1", [{**TIMER1, "sentence": ""}], bad_rows="drop")
    assert not (tmp_path / "out.jsonl").exists()


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


def test_wrong_paths_are_all_named_and_inputs_never_written_to(tmp_path):
    raw = write(tmp_path / "raw.json", [TIMER1])
    with pytest.raises(ConvertError) as error:
        convert("tiktok", [tmp_path / "none.json", raw], raw, video_root=tmp_path / "none", durations=[tmp_path])
    text = str(error.value)
    parts = ("--source tiktok: allowed: charades,", "--input", "--durations", "--video_root", f"--output {raw}: is an input")
    assert all(part in text for part in parts) and len(text.splitlines()) == 5
    assert json.loads(raw.read_text()) == [TIMER1]
    link = tmp_path / "link.jsonl"
    link.symlink_to(raw)
    with pytest.raises(ConvertError, match="is an input"):
        convert("timer1", [raw], link)
    with pytest.raises(ConvertError, match="is a folder"):
        convert("timer1", [raw], tmp_path)


def test_a_video_gets_the_ending_that_it_has_and_missing_ones_are_counted(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("v_a.webm", "v_a.json", "v_b.mp4", "v_b.mkv", "other.mp4"):
        (folder / name).touch()
    content = {**ACTIVITYNET, "v_c": ACTIVITYNET["v_b"]}
    conversion = converted(tmp_path, "activitynet", content, video_root=folder)
    assert [Path(sample.video).name for sample in conversion.samples] == ["v_a.webm", "v_a.webm", "v_b.mp4", "v_c.mp4"]
    assert [sample.id for sample in conversion.samples] == ["v_a_0", "v_a_1", "v_b_0", "v_c_0"]
    assert conversion.missing == ("v_c.mp4",)
    assert f"not in {folder}: 1 of the videos (v_c.mp4)" in describe(conversion, tmp_path / "out.jsonl", folder)
    written = [json.loads(line)["video"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == ["v_a.webm", "v_a.webm", "v_b.mp4", "v_c.mp4"]


def test_other_sentences_of_the_video_become_captions(tmp_path):
    times = [[5, 8], [0, 4], [3, 3], [2, 30], [4, 6]]
    content = {
        "v": {"duration": 10, "timestamps": times, "sentences": ["late", " early ", "none", "outside", "middle"]},
        "w": {"duration": 10, "timestamps": [[0, 1]], "sentences": ["elsewhere"]},
    }
    conversion = converted(tmp_path, "activitynet", content, captions=True)
    captions = {sample.query: [caption.text for caption in sample.captions] for sample in conversion.samples}
    assert captions["late"] == ["early", "middle"] and captions[" early "] == ["middle", "late"]
    assert captions["none"] == captions["outside"] == ["early", "middle", "late"] and captions["elsewhere"] == []
    assert conversion.samples[0].captions[0] == Caption(0.0, 4.0, "early")


def test_captions_are_of_the_same_file_and_clip_and_replace_none(tmp_path):
    own = [{"start": 0, "end": 1, "text": "own"}]
    clip = {"video_start": 5.0, "video_end": 35.12}
    rows = [TARO, {**TARO, "qid": 1, "query": "b"}, {**TARO, "qid": 2, "captions": own}, {**TARO, **clip, "qid": 3}]
    first, second = write(tmp_path / "a.json", rows), write(tmp_path / "b.json", [{**TARO, "qid": 4, "query": "c"}])
    conversion = convert("taro", [first, second], tmp_path / "out.jsonl", captions=True)
    texts = [[caption.text for caption in sample.captions] for sample in conversion.samples]
    assert texts == [["b", "a person sits"], ["a person sits", "a person sits"], ["own"], [], []]
    without = convert("taro", [first], tmp_path / "out.jsonl")
    assert [len(sample.captions) for sample in without.samples] == [0, 0, 1, 0]


def run(*arguments):
    command = [sys.executable, "-m", "taro.prepare.convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_and_says_what_it_did(tmp_path, capsys):
    raw, lengths = write(tmp_path / "raw.txt", CHARADES), write(tmp_path / "lengths.csv", LENGTHS)
    output = tmp_path / "new" / "out.jsonl"
    main(["--source", "charades", "--input", str(raw), "--output", str(output), "--durations", str(lengths)])
    assert capsys.readouterr().out == f"{output}: 3 samples of 2 videos, 0 of them clips of a longer file\n"
    assert list(output.parent.iterdir()) == [output]
    assert len(load_samples(output)) == 3


def test_the_command_reports_problems_without_a_traceback(tmp_path):
    done = run("--source", "timer1", "--input", tmp_path / "none.json", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1 and done.stderr.startswith("error: --input ") and "Traceback" not in done.stderr
    raw = write(tmp_path / "raw.json", {"videos": 1})
    done = run("--source", "activitynet", "--input", raw, "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1 and "error: raw.json videos: got 1" not in done.stderr
    assert "error: 1 of 1 rows can't be samples" in done.stderr and "Traceback" not in done.stderr


# ---- The real files ----


@pytest.mark.parametrize(
    "source, name, samples, videos, clips",
    [
        ("taro", "charades_one_video.jsonl", 6, 1, 0),
        ("taro", "charades_sta_test.jsonl", 3720, 1334, 0),
        ("taro", "activitynet_val_1.jsonl", 15933, 4475, 0),
        ("qvhighlights", "qvhighlights_val.jsonl", 1550, 1519, 0),
        ("taro", "tvgbench.jsonl", 800, 462, 252),
        ("tvgbench", "timer1_tvgbench.json", 800, 462, 252),
        ("timer1", "timer1_train_2k5.json", 2500, 2475, 665),
    ],
)
def test_real_files_are_read_whole(tmp_path, source, name, samples, videos, clips):
    conversion = convert(source, [annotation_file(name)], tmp_path / "out.jsonl")
    assert len(conversion.samples) == samples and not conversion.dropped
    assert len({sample.id for sample in conversion.samples}) == samples
    assert len({sample.video for sample in conversion.samples}) == videos
    assert sum(sample.clip is not None for sample in conversion.samples) == clips
    assert all(fault.kind in SPAN_FAULTS for row in conversion.kept for fault in row.faults)
    assert load_samples(tmp_path / "out.jsonl", bad_rows="keep") == list(conversion.samples)


def count(conversion, kind):
    return sum(any(fault.kind == kind for fault in row.faults) for row in conversion.kept)


def test_tvgbench_has_11_truths_of_no_length_and_27_that_end_after_the_video(tmp_path):
    conversion = convert("tvgbench", [annotation_file("timer1_tvgbench.json")], tmp_path / "out.jsonl")
    assert len(conversion.kept) == 38
    assert (count(conversion, "zero_length_span"), count(conversion, "span_partly_outside")) == (11, 27)


def test_time_r1_has_34_truths_that_end_after_the_video_and_6_that_are_mistakes(tmp_path):
    conversion = convert("timer1", [annotation_file("timer1_train_2k5.json")], tmp_path / "out.jsonl")
    assert len(conversion.kept) == 34
    assert (count(conversion, "span_partly_outside"), count(conversion, "span_far_outside")) == (28, 6)
    assert [row.place for row in conversion.kept if row.sample.spans == ((120.0, 14220.0),)] == ["timer1_train_2k5.json row 40"]


def test_both_releases_of_tvgbench_say_the_same(tmp_path):
    ours, theirs = (
        convert(source, [annotation_file(name)], tmp_path / "out.jsonl").samples
        for source, name in (("tvgbench", "timer1_tvgbench.json"), ("taro", "tvgbench.jsonl"))
    )
    assert list(map(without_id, ours)) == list(map(without_id, theirs))


def test_raw_files_give_what_the_benchmark_files_say(tmp_path):
    """The raw forms of Charades-STA and ActivityNet Captions, written from the benchmark files."""
    charades = load_samples(annotation_file("charades_sta_test.jsonl"), video_root=tmp_path)
    rows = [f"{s.extra['vid']} {s.spans[0][0]} {s.spans[0][1]}##{s.query}" for s in charades]
    lengths = {s.extra["vid"]: s.duration for s in charades}
    table = write(tmp_path / "lengths.csv", "id,length\n" + "\n".join(f"{vid},{length}" for vid, length in lengths.items()))
    raw = write(tmp_path / "charades.txt", "\n".join(rows))
    back = convert("charades", [raw], tmp_path / "out.jsonl", durations=[table]).samples
    assert list(map(without_id, back)) == list(map(without_id, charades))

    captions = load_samples(annotation_file("activitynet_val_1.jsonl"), video_root=tmp_path)
    videos = {}
    for sample in captions:
        entry = videos.setdefault(Path(sample.video).stem, {"duration": sample.duration, "timestamps": [], "sentences": []})
        entry["timestamps"].append(sample.spans[0])
        entry["sentences"].append(sample.query)
    back = convert("activitynet", [write(tmp_path / "val_1.json", videos)], tmp_path / "out.jsonl").samples
    assert len(back) == 15933 and {without_id(sample) for sample in back} == {without_id(sample) for sample in captions}


def without_id(sample):
    return sample.video, sample.query, sample.spans, sample.duration, sample.clip
