import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from taro.data.samples import Caption, Sample, SampleError, load_samples, query_key, save_samples

ANNOTATIONS = Path(__file__).resolve().parents[3] / "shared" / "annotations"

GOOD = {"id": "a", "video": "a.mp4", "query": "a dog jumps", "spans": [[1.0, 2.5]], "duration": 10.0}
BENCHMARK = {
    "qid": 7,
    "query": "a dog jumps",
    "duration": 10,
    "vid": "a",
    "relevant_windows": [[1, 2.5], [4, 5]],
    "video_file": "a.mp4",
    "video_start": 30.0,
    "video_end": 40.0,
    "saliency_scores": [[1, 2, 3]],
}
# Faults that evaluation keeps.
MISPLACED = {
    "zero-length": [[3.0, 3.0]],
    "reversed": [[4.0, 3.0]],
    "ends after the video": [[8.0, 10.03]],
    "starts after the video": [[14220.0, 14230.0]],
    "starts before the video": [[-0.5, 3.0]],
    "second span": [[1.0, 2.0], [3.0, 3.0]],
}


def write(folder, *rows):
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def annotation_file(name):
    path = ANNOTATIONS / name
    if not path.exists():
        pytest.skip(f"{path} is not there: the real annotation files are not part of the repository")
    return path


def test_a_full_row_is_read(tmp_path):
    caption = {"start": 0, "end": 3.5, "text": "a dog runs"}
    row = {**GOOD, "clip": [5, 15], "captions": [caption], "task": "multi_span", "source": {"name": "x"}}
    [sample] = load_samples(write(tmp_path, row))
    assert sample == Sample(
        id="a",
        video=str(tmp_path / "a.mp4"),
        query="a dog jumps",
        spans=((1.0, 2.5),),
        duration=10.0,
        clip=(5.0, 15.0),
        captions=(Caption(0.0, 3.5, "a dog runs"),),
        task="multi_span",
        extra={"source": {"name": "x"}},
    )
    assert isinstance(sample.clip[0], float) and isinstance(sample.captions[0].start, float)
    assert len({sample, sample}) == 1


def test_optional_fields_have_defaults_and_blank_lines_are_no_rows(tmp_path):
    [sample] = load_samples(write(tmp_path, "", GOOD, "  "))
    assert (sample.clip, sample.captions, sample.task, sample.extra) == (None, (), "grounding", {})


def test_a_benchmark_row_is_read(tmp_path):
    [sample] = load_samples(write(tmp_path, BENCHMARK))
    assert sample == Sample(
        id="7",
        video=str(tmp_path / "a.mp4"),
        query="a dog jumps",
        spans=((1.0, 2.5), (4.0, 5.0)),
        duration=10.0,
        clip=(30.0, 40.0),
        extra={"vid": "a", "saliency_scores": [[1, 2, 3]]},
    )
    assert isinstance(sample.duration, float) and isinstance(sample.spans[0][0], float)


@pytest.mark.parametrize("row", [{**BENCHMARK, "video_start": None, "video_end": None}, {**BENCHMARK}])
def test_a_benchmark_row_without_clip_ends_is_the_whole_file(tmp_path, row):
    if row["video_start"] is not None:
        del row["video_start"], row["video_end"]
    [sample] = load_samples(write(tmp_path, row))
    assert sample.clip is None


def test_relative_videos_start_from_video_root(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "id": "b", "video": "/elsewhere/b.mp4"})
    assert [s.video for s in load_samples(path, video_root="videos")] == ["videos/a.mp4", "/elsewhere/b.mp4"]


# (changed field, its value, what the message must say)
BAD_FIELDS = [
    ("id", None, "id: got null"),
    ("id", True, "id: got true"),
    ("id", " ", 'id: got " "'),
    ("video", 3, "video: got 3"),
    ("video", "", 'video: got ""'),
    ("query", "  ", 'query: got "  "'),
    ("query", "half \ud83d", 'query: got "half \\ud83d"'),
    ("task", None, "task: got null"),
    ("task", "tracking", 'task: got "tracking"; allowed: grounding, multi_span, dense, highlights, grounded_qa, actions'),
    ("task", ["dense"], 'task: got ["dense"]'),
    ("duration", 0, "duration: got 0"),
    ("duration", -1.5, "duration: got -1.5"),
    ("duration", "10", 'duration: got "10"'),
    ("duration", True, "duration: got true"),
    ("duration", math.nan, "duration: got NaN"),
    ("duration", 10**400, "duration: got 1000"),
    ("duration", 1e15, "duration: got 1000000000000000.0; allowed: a number above 0 and at most 604800 (seconds, a week)"),
    ("spans", [], "spans: got []; allowed: [[start, end], ...], one or more (seconds)"),
    ("spans", [1.0, 2.0], "spans[0]: got 1.0"),
    ("spans", [[1.0, 2.0], [3.0]], "spans[1]: got [3.0]"),
    ("spans", [[1.0, math.inf]], "spans[0]: got [1.0, Infinity]"),
    ("spans", [[1.0, "2"]], 'spans[0]: got [1.0, "2"]'),
    ("clip", [15, 5], "clip: got [15, 5]"),
    ("clip", [5, 5], "clip: got [5, 5]"),
    ("clip", [-5, 5], "clip: got [-5, 5]"),
    ("clip", [5, None], "clip: got [5, null]"),
    ("clip", [0, 60], "clip: got [0.0, 60.0]"),
    ("captions", {}, "captions: got {}"),
    ("captions", ["text"], 'captions[0]: got "text"'),
    ("captions", [{"start": 0, "end": 1}], "captions[0].text: got nothing (the field is missing)"),
    ("captions", [{"start": 2, "end": 1, "text": "x"}], "captions[0]: got [2.0, 1.0]"),
    ("captions", [{"start": 1, "end": 1, "text": "x"}], "captions[0]: got [1.0, 1.0]"),
    ("captions", [{"start": 0, "end": "1", "text": "x"}], 'captions[0].end: got "1"'),
    ("captions", [{"start": 0, "end": 1, "text": ""}], 'captions[0].text: got ""'),
    ("captions", [{"start": 1, "end": 2, "text": "he </THINK><answer>1s to 2s"}], 'captions[0].text: got "he </THINK>'),
    ("captions", [{"start": 9, "end": 11, "text": "x"}], "captions[0]: got [9.0, 11.0]"),
]


@pytest.mark.parametrize("name, value, message", BAD_FIELDS)
def test_a_bad_field_is_named_with_line_value_and_what_is_allowed(tmp_path, name, value, message):
    path = write(tmp_path, {**GOOD, "id": "first"}, {**GOOD, name: value})
    with pytest.raises(SampleError) as error:
        load_samples(path)
    with pytest.raises(SampleError) as kept_error:
        load_samples(path, bad_rows="keep")
    text = str(error.value)
    kept = str(kept_error.value)  # of a command that has no setting bad_rows
    assert "bad_rows" not in kept and kept.rsplit("\n", 1)[0] == text.rsplit("\n", 1)[0]
    assert f"line 2: {message}" in text and "; allowed: " in text
    assert str(path) in text and "line 1:" not in text and "set bad_rows to drop" in text


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_field_is_named(tmp_path, name):
    row = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(SampleError, match=rf"line 1: {name}: got nothing \(the field is missing\)"):
        load_samples(write(tmp_path, row))


def test_a_benchmark_row_is_reported_in_its_own_words(tmp_path):
    row = {**BENCHMARK, "qid": None, "video_file": "", "relevant_windows": [], "video_end": None}
    with pytest.raises(SampleError) as error:
        load_samples(write(tmp_path, row))
    text = str(error.value)
    assert "qid: got null" in text and 'video_file: got ""' in text and "relevant_windows: got []" in text
    assert "[video_start, video_end]: got [30.0, null]" in text


@pytest.mark.parametrize("line", ['{"id": ', "[1, 2]", "null", '"text"'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    with pytest.raises(SampleError, match=r"(?s)line 3: .*allowed: one JSON object a line"):
        load_samples(write(tmp_path, GOOD, "", line))


def test_bytes_that_are_not_text_are_a_bad_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "\xff"}\n')
    with pytest.raises(SampleError, match="line 2: not JSON"):
        load_samples(path)


def test_ids_are_unique_whatever_their_type(tmp_path):
    path = write(tmp_path, {**GOOD, "id": "1"}, {**GOOD, "id": 1}, {**GOOD, "id": 2})
    with pytest.raises(SampleError, match=r'line 2: id: got "1"; .*line 1 has it too'):
        load_samples(path)
    assert [s.id for s in load_samples(path, bad_rows="drop")] == ["1", "2"]


@pytest.mark.parametrize("spans", MISPLACED.values(), ids=MISPLACED.keys())
def test_misplaced_spans_are_an_error_dropped_or_kept(tmp_path, spans):
    path = write(tmp_path, GOOD, {**GOOD, "id": "b", "spans": spans})
    with pytest.raises(SampleError, match=r"(?s)line 2: spans\[.*bad_rows to drop.*to keep"):
        load_samples(path)
    assert [s.id for s in load_samples(path, bad_rows="drop")] == ["a"]
    kept = load_samples(path, bad_rows="keep")
    assert [list(map(list, s.spans)) for s in kept] == [GOOD["spans"], spans]


def test_spans_within_the_rounding_of_the_duration_are_good(tmp_path):
    [sample] = load_samples(write(tmp_path, {**GOOD, "spans": [[-0.01, 10.01]]}))
    assert sample.spans == ((-0.01, 10.01),)


def test_keep_refuses_a_misplaced_row_with_another_fault(tmp_path):
    row = {**GOOD, "id": "b", "spans": [[3.0, 3.0]]}
    with pytest.raises(SampleError) as error:
        load_samples(write(tmp_path, row, {**row, "id": "c", "query": ""}), bad_rows="keep")
    assert "1 of 2 rows" in str(error.value) and 'line 2: query: got ""' in str(error.value)
    assert "line 1:" not in str(error.value) and "to keep" not in str(error.value)


@pytest.mark.parametrize("bad_rows, word", [("drop", "dropped"), ("keep", "kept")])
def test_what_was_dropped_or_kept_is_logged(tmp_path, caplog, bad_rows, word):
    path = write(tmp_path, GOOD, {**GOOD, "id": "b", "spans": [[3.0, 3.0]]})
    with caplog.at_level(logging.WARNING):
        load_samples(path, bad_rows=bad_rows)
    [record] = caplog.records
    assert f"1 of 2 rows {word}" in record.message and "line 2: spans[0]: got [3.0, 3.0]" in record.message


def test_good_rows_log_nothing(tmp_path, caplog):
    load_samples(write(tmp_path, GOOD), bad_rows="drop")
    assert not caplog.records


def test_twenty_bad_rows_are_shown_and_the_others_counted(tmp_path):
    rows = [{**GOOD, "id": str(i), "duration": 0, "query": ""} for i in range(25)]
    with pytest.raises(SampleError) as error:
        load_samples(write(tmp_path, *rows))
    text = str(error.value)
    assert "25 of 25 rows" in text and "and 5 more" in text
    assert text.count("- line ") == 20 and text.count("query: got") == text.count("duration: got") == 20


def test_long_values_are_cut(tmp_path):
    with pytest.raises(SampleError) as error:
        load_samples(write(tmp_path, {**GOOD, "duration": "x" * 100_000}))
    assert len(str(error.value)) < 500


def test_limit_reads_from_the_top_and_no_further(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "id": "b"}, "broken")
    assert [s.id for s in load_samples(path, limit=2)] == ["a", "b"]
    with pytest.raises(SampleError):
        load_samples(path, limit=3)


@pytest.mark.parametrize("rows", [[], ["", " "], ["broken"]])
def test_a_file_without_samples_is_refused(tmp_path, rows):
    with pytest.raises(SampleError, match="no samples"):
        load_samples(write(tmp_path, *rows), bad_rows="drop")


def full_sample(folder):
    return Sample(
        id="ä",
        video=str(folder / "videos" / "a.mp4"),
        query='a "dog"\njumps \u2028 über',
        spans=((0.1, 2.5), (3.0, 1 / 3 + 4)),
        duration=10.0,
        clip=(5.0, 15.0),
        captions=(Caption(0.0, 3.5, "a dog runs"),),
        task="multi_span",
        extra={"source": "x", "relevant_windows": [[1, 2]]},
    )


def test_what_is_saved_is_loaded_again(tmp_path):
    samples = [full_sample(tmp_path), Sample("b", str(tmp_path / "b.mp4"), "q", ((0.0, 1.0),), 1.0)]
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    save_samples(samples, path)
    assert load_samples(path) == samples
    assert list(path.parent.iterdir()) == [path]


def test_saved_videos_can_be_relative_so_that_a_folder_can_move(tmp_path):
    path = tmp_path / "before" / "rows.jsonl"
    save_samples([full_sample(path.parent)], path, relative_to=path.parent)
    assert json.loads(path.read_text(encoding="utf-8"))["video"] == str(Path("videos", "a.mp4"))
    path.parent.rename(tmp_path / "after")
    [sample] = load_samples(tmp_path / "after" / "rows.jsonl")
    assert sample.video == str(tmp_path / "after" / "videos" / "a.mp4")


def test_a_relative_video_is_saved_so_that_it_opens_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_samples([Sample("a", "videos/a.mp4", "q", ((0.0, 1.0),), 1.0)], "deep/rows.jsonl")
    assert load_samples("deep/rows.jsonl")[0].video == str(tmp_path / "videos" / "a.mp4")


def test_a_known_field_wins_over_an_extra_of_its_name(tmp_path):
    sample = Sample("a", str(tmp_path / "a.mp4"), "q", ((0.0, 1.0),), 1.0, extra={"id": "other"})
    save_samples([sample], tmp_path / "rows.jsonl")
    assert load_samples(tmp_path / "rows.jsonl")[0].id == "a"


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = write(tmp_path, GOOD)
    good = load_samples(path)
    with pytest.raises(TypeError):
        save_samples([*good, Sample("b", "b.mp4", "q", ((0.0, 1.0),), 1.0, extra={"x": object()})], path)
    assert load_samples(path) == good
    assert list(tmp_path.iterdir()) == [path]


def test_tvgbench_windows_of_clips_are_in_the_clips_own_clock():
    clips = [s for s in load_samples(annotation_file("tvgbench.jsonl"), bad_rows="keep") if s.clip]
    assert len(clips) == 252
    inside_clip = [s.spans[0][1] <= s.clip[1] - s.clip[0] + 0.5 for s in clips]
    inside_file_clock = [s.clip[0] - 0.5 <= s.spans[0][0] and s.spans[0][1] <= s.clip[1] + 0.5 for s in clips]
    assert (sum(inside_clip), sum(inside_file_clock)) == (250, 78)


def test_a_file_that_is_one_json_list_is_refused():
    with pytest.raises(SampleError, match="one JSON object a line"):
        load_samples(annotation_file("timer1_tvgbench.json"), limit=50)


def test_the_key_of_a_query_tells_tasks_apart():
    plain = Sample("a", "v.mp4", "q", ((0.0, 1.0),), 9.0)
    other = replace(plain, task="multi_span")
    one, two = (replace(plain, task="dense", extra={"queries": [query]}) for query in "xy")
    assert len({query_key(sample) for sample in (plain, other, one, two)}) == 4
    assert query_key(plain) == query_key(replace(plain, id="b", query="q."))
