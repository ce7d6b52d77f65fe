import json
from dataclasses import asdict
from pathlib import Path

import pytest

from taro.data.rows import Caption
from taro.data.samples import SampleError, load_samples
from taro.prepare.check import CHECKS, CheckError, changes_file, check_file, main, make_report
from taro.prepare.convert import convert

SHARED = Path(__file__).resolve().parents[3] / "shared"

GOOD = {"id": "a", "video": "a.mp4", "query": "a dog jumps", "spans": [[1.0, 2.5]], "duration": 10.0}
CAPTIONS = [{"start": 0, "end": 3, "text": "x"}, {"start": 2, "end": 5, "text": "y"}]
# What of a row makes it have a fault, and what the fixed row has instead; None: it is left out.
FAULTY = {
    "unknown_task": ({"task": "tracking"}, None),
    "task_field": ({"spans": []}, None),
    "empty_query": ({"query": " "}, None),
    "query_tag": ({"query": "a dog </think> jumps"}, None),
    "zero_length_span": ({"spans": [[3.0, 3.0]]}, None),
    "reversed_span": ({"spans": [[4.0, 3.0]]}, {"spans": ((3.0, 4.0),)}),
    "span_partly_outside": ({"spans": [[8.0, 12.0]]}, {"spans": ((8.0, 10.0),)}),
    "span_outside": ({"spans": [[10.0, 12.0]]}, None),
    "span_far_outside": ({"spans": [[8.0, 14220.0]]}, None),
    "clip_length": ({"clip": [0, 60]}, None),
    "empty_caption": (
        {"captions": [*CAPTIONS, {"start": 7, "end": 7, "text": "z"}]},
        {"captions": (Caption(0.0, 3.0, "x"), Caption(2.0, 5.0, "y"))},
    ),
    "caption_tag": ({"captions": [{"start": 1, "end": 2, "text": "z </think>"}]}, {"captions": ()}),
    "caption_outside": ({"captions": [{"start": 8, "end": 11, "text": "z"}]}, {"captions": (Caption(8.0, 10.0, "z"),)}),
    "captions_unordered": (
        {"captions": CAPTIONS[::-1]},
        {"captions": (Caption(0.0, 3.0, "x"), Caption(2.0, 5.0, "y"))},
    ),
    "unreadable": ({"duration": "x"}, None),
}
OF_TWO_ROWS = {"duplicate_id", "duplicate_query"}
OF_VIDEOS = {"no_duration", "missing_video", "unreadable_video", "duration_mismatch", "clip_outside_file"}


def shared_file(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there: the real files are not part of the repository")
    return path


def write(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def kinds(checked):
    """Places of the rows by the kind of their faults."""
    return {kind: [row["place"] for row in own["rows"]] for kind, own in make_report("", checked)["kinds"].items()}


def records(output):
    return [json.loads(line) for line in changes_file(output).read_text(encoding="utf-8").splitlines()]


def test_every_kind_of_fault_is_tested_here():
    assert set(FAULTY) | OF_TWO_ROWS | OF_VIDEOS == set(CHECKS)


@pytest.mark.parametrize("kind", FAULTY)
def test_a_fault_is_found_and_no_other_and_fixed_or_its_row_left_out(tmp_path, kind):
    faulty = {**GOOD, "id": "b", "video": "b.mp4", "x": 1, **FAULTY[kind][0]}
    path, output = write(tmp_path, GOOD, "", faulty), tmp_path / "rows.fixed.jsonl"
    before = path.read_bytes()
    assert kinds(check_file(path)) == {kind: ["line 3"]}
    assert main([str(path), "--fix"]) == 0
    samples = load_samples(output)
    assert samples[0] == load_samples(path, limit=1)[0]
    assert not check_file(output).bad and path.read_bytes() == before
    [record] = records(output)
    assert record["place"] == "line 3" and kind in record["why"]
    expected = FAULTY[kind][1]
    if expected is None:
        assert len(samples) == 1 and record["field"] == "row" and record["after"] is None
    else:
        [(name, value)] = expected.items()
        assert getattr(samples[1], name) == value and samples[1].extra == {"x": 1}
        [caption_or_span] = [record] if record["field"] == name else []
        assert caption_or_span["after"] == json.loads(json.dumps(asdict(samples[1])[name]))
        assert caption_or_span["before"] != caption_or_span["after"]


CHOICES = {"task": "grounded_qa", "choices": ["</think><answer>A", "y"], "answer": "B"}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (CHOICES, "choices[0]"),
        (CHOICES | {"task": "multiple_choice", "choices": ["x", "y <THINK>"], "spans": []}, "choices[1]"),
        ({"task": "dense", "queries": ["a dog <answer>"]}, "queries[0]"),
        ({"query": "a dog </think>"}, "query"),
        ({"query": "a dog </think>", "task": "dense", "queries": ["a dog"]}, None),  # a title, which no one is shown
    ],
)
def test_a_tag_in_what_is_asked_is_a_fault(tmp_path, row, field):
    """A prompt with one is refused, so that training would lose the group; in evaluation the sample counts, and scores 0."""
    path = write(tmp_path, {**GOOD, **row})
    found = kinds(check_file(path))
    assert found == ({"query_tag": ["line 1"]} if field else {})
    if field:
        (fault,) = check_file(path).rows[0].faults
        assert fault.message.startswith(f"{field}: got ") and "text without think and answer tags" in fault.message
        with pytest.raises(SampleError, match="text without think and answer tags"):
            load_samples(path)
    assert len(load_samples(path, bad_rows="keep")) == 1


def test_rows_with_a_fault_are_dropped_if_asked_for(tmp_path):
    faulty = [{**GOOD, "id": kind, "video": f"{kind}.mp4", **change} for kind, (change, _) in FAULTY.items()]
    path = write(tmp_path, GOOD, *faulty)
    assert main([str(path), "--drop"]) == 0
    assert [sample.id for sample in load_samples(tmp_path / "rows.good.jsonl")] == ["a"]
    for kind, record in zip(FAULTY, records(tmp_path / "rows.good.jsonl"), strict=True):
        assert record["field"] == "row" and record["why"].startswith(f"{kind}: ")


def test_several_faults_of_a_row_are_all_found_and_counted_once_each(tmp_path):
    spans = [[1.0, 2.0], [3.0, 3.0], [5.0, 4.0], [4.0, 4.0]]
    path = write(tmp_path, {**GOOD, "spans": spans, "clip": [0, 60]}, {**GOOD, "id": 7, "query": "", "duration": 0})
    checked = check_file(path)
    found = {"zero_length_span": ["line 1"], "reversed_span": ["line 1"], "clip_length": ["line 1"]}
    assert kinds(checked) == {**found, "unreadable": ["line 2"], "empty_query": ["line 2"]}
    [zero] = make_report(path, checked)["kinds"]["zero_length_span"]["rows"]
    assert "spans[1]: got [3.0, 3.0]" in zero["message"] and "spans[3]: got [4.0, 4.0]" in zero["message"]


def test_only_the_bad_ones_of_several_truths_go_and_rounded_times_stay(tmp_path):
    spans = [[1.0, 2.0], [3.0, 3.0], [5.0, 4.0], [11.0, 12.0]]
    path = write(tmp_path, {**GOOD, "spans": spans}, {**GOOD, "id": "b", "spans": [[-0.01, 10.01]]})
    assert set(kinds(check_file(path))) == {"zero_length_span", "reversed_span", "span_outside"}
    assert main([str(path), "--fix"]) == 0
    found = [sample.spans for sample in load_samples(tmp_path / "rows.fixed.jsonl")]
    assert found == [((1.0, 2.0), (4.0, 5.0)), ((-0.01, 10.01),)]


@pytest.mark.parametrize("start, kind", [(9.9, "span_partly_outside"), (9.985, "span_outside")])
def test_what_a_cut_would_leave_of_a_span_is_more_than_rounding(tmp_path, start, kind):
    assert kinds(check_file(write(tmp_path, {**GOOD, "spans": [[start, 12.0]]}))) == {kind: ["line 1"]}


def test_the_second_of_two_ids_gets_a_number_that_is_free(tmp_path):
    others = [{**GOOD, "query": "b"}, {**GOOD, "query": "c", "id": "a_2"}, {**GOOD, "query": "d"}]
    path, output = write(tmp_path, GOOD, *others), tmp_path / "new.jsonl"
    assert kinds(check_file(path)) == {"duplicate_id": ["line 2", "line 4"]}
    assert main([str(path), "--fix", "--output", str(output)]) == 0
    assert [(s.id, s.query) for s in load_samples(output)] == [
        ("a", "a dog jumps"),
        ("a_3", "b"),
        ("a_2", "c"),
        ("a_4", "d"),
    ]
    assert [(r["field"], r["before"], r["after"]) for r in records(output)] == [("id", "a", "a_3"), ("id", "a", "a_4")]


@pytest.mark.parametrize(
    "change, duplicate",
    [
        ({}, True),
        ({"query": " a dog jumps. "}, True),
        ({"query": "A dog jumps"}, False),
        ({"video": "b.mp4"}, False),
        ({"clip": [5, 15]}, False),
        ({"spans": [[1.0, 2.6]]}, False),
        ({"spans": [[1.0, 2.5], [3.0, 4.0]]}, False),
    ],
)
def test_rows_that_ask_the_same_of_the_same_video_are_duplicates(tmp_path, change, duplicate):
    path = write(tmp_path, GOOD, {**GOOD, "id": "b", **change})
    assert kinds(check_file(path)) == ({"duplicate_query": ["line 2"]} if duplicate else {})
    assert main([str(path), "--fix"]) == 0
    assert len(load_samples(tmp_path / "rows.fixed.jsonl")) == (1 if duplicate else 2)


def test_a_row_that_becomes_a_duplicate_when_it_is_fixed_is_left_out(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "id": "b", "spans": [[2.5, 1.0]]})
    assert main([str(path), "--fix"]) == 0
    assert [sample.id for sample in load_samples(tmp_path / "rows.fixed.jsonl")] == ["a"]
    assert [record["why"] for record in records(tmp_path / "rows.fixed.jsonl")] == ["duplicate_query"]


def test_benchmark_rows_are_checked_in_their_own_words_and_written_as_samples(tmp_path):
    row = {"qid": 7, "query": "q", "duration": 10, "vid": "v", "relevant_windows": [[1, 12]], "video_file": "v.mp4"}
    path = write(tmp_path, row)
    [own] = make_report(path, check_file(path))["kinds"].values()
    assert own["rows"][0]["message"].startswith("relevant_windows[0]: got [1.0, 12.0]")
    assert main([str(path), "--fix"]) == 0
    [sample] = load_samples(tmp_path / "rows.fixed.jsonl")
    assert (sample.id, sample.spans, sample.extra) == ("7", ((1.0, 10.0),), {"vid": "v"})


# ---- Videos ----


@pytest.fixture
def video_row(video_file, scenes):
    return {**GOOD, "video": str(video_file), "duration": scenes[0].duration}


def test_videos_are_only_looked_at_if_asked_for(tmp_path, video_row):
    path = write(tmp_path, {**video_row, "duration": 5.0}, {**GOOD, "id": "b", "video": "none.mp4"})
    checked = check_file(path)
    assert not checked.bad and checked.videos is None
    checked = check_file(path, videos=True, workers=1)
    assert kinds(checked) == {"missing_video": ["line 2"], "duration_mismatch": ["line 1"]} and checked.videos == 2


def test_good_videos_have_no_fault(tmp_path, video_row, video_file):
    (tmp_path / "a.mp4").symlink_to(video_file)
    rows = [video_row, {**video_row, "id": "b", "video": "a.mp4"}, {**video_row, "id": "c", "clip": [1, 11], "duration": 10}]
    checked = check_file(write(tmp_path, *rows), videos=True, workers=2)
    assert not checked.bad and checked.videos == 2
    assert main([str(tmp_path / "rows.jsonl"), "--videos", "--workers", "1"]) == 0


@pytest.mark.slow
def test_videos_that_cannot_be_opened_are_named_with_the_reason(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "folder.mp4").mkdir()
    names = ("empty.mp4", "text.mp4", "folder.mp4", "none.mp4")
    path = write(tmp_path, *({**GOOD, "id": name, "video": name} for name in names))
    checked = check_file(path, videos=True, workers=2)
    assert kinds(checked) == {"missing_video": ["line 4"], "unreadable_video": ["line 1", "line 2", "line 3"]}
    assert all(str(tmp_path / name) in row.faults[0].message for name, row in zip(names, checked.rows, strict=True))
    with pytest.raises(CheckError, match="none of 4 rows is left"):
        main([str(path), "--videos", "--fix"])
    assert not (tmp_path / "rows.fixed.jsonl").exists() and not changes_file(tmp_path / "rows.fixed.jsonl").exists()


@pytest.mark.slow
def test_a_duration_becomes_the_files_and_spans_follow_it(tmp_path, video_row):
    length = video_row["duration"]
    rows = [
        {**video_row, "duration": 100.0, "spans": [[1.0, 40.0]]},
        {**video_row, "id": "b", "duration": 100.0, "spans": [[50.0, 60.0]]},
        {**video_row, "id": "c", "duration": 5.0, "spans": [[6.0, 7.0]]},
    ]
    path = write(tmp_path, *rows)
    assert main([str(path), "--videos", "--fix"]) == 0
    first, last = load_samples(tmp_path / "rows.fixed.jsonl")
    assert (first.id, last.id) == ("a", "c")
    assert first.duration == pytest.approx(length, abs=0.2) and first.spans == ((1.0, first.duration),)
    assert last.duration == first.duration and last.spans == ((6.0, 7.0),)
    assert not check_file(tmp_path / "rows.fixed.jsonl", videos=True).bad


def test_durations_that_are_not_there_are_written(tmp_path, video_row, scenes):
    del video_row["duration"]
    rows = [video_row, {**video_row, "id": "b", "clip": [1, 11]}, {**video_row, "id": "c", "video": "none.mp4"}]
    path = write(tmp_path, *rows)
    assert kinds(check_file(path, workers=1)) == {"no_duration": ["line 3"]}
    assert main([str(path), "--fix", "--workers", "1"]) == 0
    written = [json.loads(line) for line in (tmp_path / "rows.fixed.jsonl").read_text().splitlines()]
    assert [row["duration"] for row in written] == pytest.approx([scenes[0].duration, 10.0], abs=0.1)
    changes = [(change["field"], change["before"], change["why"]) for change in records(tmp_path / "rows.fixed.jsonl")]
    assert changes[:2] == [("duration", None, "no duration")] * 2 and changes[2][0] == "row"
    assert "no_duration: duration: got nothing" in changes[2][2] and "none.mp4: does not exist" in changes[2][2]


@pytest.mark.slow
def test_a_clip_after_the_end_of_a_file_that_is_the_clip_is_taken_away(tmp_path, video_row):
    length = video_row["duration"]
    cut = {**video_row, "clip": [39.0, 39.0 + length]}
    short = {**video_row, "id": "b", "clip": [length - 5, length + 5], "duration": 10.0}
    path = write(tmp_path, cut, short)
    assert kinds(check_file(path, videos=True)) == {"clip_outside_file": ["line 1", "line 2"]}
    assert main([str(path), "--videos", "--fix"]) == 0
    [sample] = load_samples(tmp_path / "rows.fixed.jsonl")
    assert (sample.id, sample.clip, sample.duration) == ("a", None, length)
    assert [record["field"] for record in records(tmp_path / "rows.fixed.jsonl")] == ["clip", "row"]


# ---- The command ----


def test_a_clean_file_has_exit_status_0_and_one_with_faults_1(tmp_path, capsys):
    assert main([str(write(tmp_path, GOOD))]) == 0
    assert "0 of 1 rows have a fault" in capsys.readouterr().out
    rows = [{**GOOD, "id": f"[red]{i}", "query": f"{i}", "spans": [[3.0, 3.0]]} for i in range(5)]
    path = write(tmp_path, *rows, {**GOOD, "spans": [[1.0, 90.0]]})
    assert main([str(path)]) == 1
    shown = capsys.readouterr().out
    assert "6 of 6 rows have a fault" in shown and "zero_length_span │ 5" in shown and "span_far_outside │ 1" in shown
    assert shown.count("zero_length_span: line") == 3 and "zero_length_span: and 2 more" in shown
    assert "zero_length_span: line 1 ([red]0): spans[0]: got [3.0, 3.0]" in shown
    assert list(tmp_path.iterdir()) == [path]


def test_the_report_has_every_row(tmp_path):
    rows = [{**GOOD, "id": f"{i}", "query": f"{i}", "spans": [[3.0, 3.0]], "clip": [5, 15]} for i in range(30)]
    path, report = write(tmp_path, *rows, "no row"), tmp_path / "new" / "report.json"
    assert main([str(path), "--report", str(report)]) == 1
    found = json.loads(report.read_text())
    assert {name: found[name] for name in ("file", "rows", "clips", "bad_rows", "videos")} == {
        "file": str(path),
        "rows": 31,
        "clips": 30,
        "bad_rows": 31,
        "videos": None,
    }
    zero = found["kinds"]["zero_length_span"]
    assert zero["count"] == 30 and [row["id"] for row in zero["rows"]] == [str(i) for i in range(30)]
    assert zero["rows"][0]["place"] == "line 1" and zero["rows"][0]["message"].startswith("spans[0]: got [3.0, 3.0]")
    assert found["kinds"]["unreadable"]["rows"][0]["id"] is None


def test_the_input_is_never_written_to(tmp_path):
    path = write(tmp_path, GOOD, {**GOOD, "id": "b", "query": "b", "spans": [[4.0, 3.0]]})
    before, link, hard = path.read_bytes(), tmp_path / "link.jsonl", tmp_path / "hard.jsonl"
    link.symlink_to(path)
    hard.hardlink_to(path)
    for other in (path, link, hard, tmp_path / "x" / ".." / "rows.jsonl"):
        for flags in (["--fix", "--output"], ["--drop", "--output"], ["--report"]):
            with pytest.raises(CheckError, match="is an input or another output"):
                main([str(path), *flags, str(other)])
    with pytest.raises(CheckError, match="is an input or another output"):
        main([str(path), "--fix", "--report", str(tmp_path / "rows.fixed.jsonl")])
    record = changes_file(tmp_path / "rows.fixed.jsonl")
    path.rename(record)
    with pytest.raises(CheckError, match="is an input or another output"):
        main([str(record), "--fix", "--output", str(tmp_path / "rows.fixed.jsonl")])
    assert record.read_bytes() == before


def test_wrong_arguments_are_all_named(tmp_path):
    with pytest.raises(CheckError) as error:
        main([str(tmp_path / "none"), "--video_root", "none", "--output", "x", "--workers", "0", "--report", str(tmp_path)])
    text = str(error.value)
    parts = ("none: no such file", "--video_root none", "--output x: nothing is written", "--workers 0", "--report")
    assert all(part in text for part in parts) and len(text.splitlines()) == 5


@pytest.mark.parametrize("rows, message", [([], "no rows"), (["[1]", '{"a": 1}'], "none of 2 rows can be read.*\n.*convert")])
def test_files_without_a_row_that_can_be_read_are_refused(tmp_path, rows, message):
    with pytest.raises(CheckError, match=message):
        main([str(write(tmp_path, *rows))])


def test_videos_are_found_again_from_where_the_output_is(tmp_path):
    path, output = write(tmp_path, {**GOOD, "video": "deep/a.mp4"}), tmp_path / "elsewhere" / "new.jsonl"
    assert main([str(path), "--fix", "--output", str(output)]) == 0
    assert Path(load_samples(output)[0].video).resolve() == tmp_path / "deep" / "a.mp4"
    assert main([str(path), "--fix", "--output", str(output), "--video_root", str(tmp_path)]) == 0
    assert json.loads(output.read_text())["video"] == str(Path("deep", "a.mp4"))


def test_the_command_ends_with_a_status_and_without_a_traceback(tmp_path, run_module):
    good, bad = GOOD, {**GOOD, "id": "b", "query": ""}
    assert run_module("taro.prepare.check", write(tmp_path, good)) == 0
    assert run_module("taro.prepare.check", write(tmp_path, good, bad)) == 1
    assert run_module("taro.prepare.check", write(tmp_path)).startswith("error: ")


# ---- The real files ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, rows", [("charades_sta_test.jsonl", 3720), ("activitynet_val_1.jsonl", 15933), ("qvhighlights_val.jsonl", 1550)]
)
def test_real_files_without_a_fault(name, rows):
    checked = check_file(shared_file("annotations", name))
    assert len(checked.rows) == rows and not checked.bad and not checked.clips


@pytest.mark.slow
def test_tvgbench_has_11_zero_length_and_27_overlong_truths_in_252_clips_and_files(tmp_path):
    raw = json.loads(shared_file("annotations", "timer1_tvgbench.json").read_text())
    truths = [(*map(float, row["answer"].split("-")), row["duration"]) for row in raw]
    path, output = shared_file("annotations", "tvgbench.jsonl"), tmp_path / "new.jsonl"
    checked = check_file(path)
    assert len(checked.rows) == 800 and checked.clips == 252
    found = kinds(checked)
    assert found == {
        "zero_length_span": [f"line {i}" for i, (start, end, _) in enumerate(truths, 1) if start == end],
        "span_partly_outside": [f"line {i}" for i, (_, end, duration) in enumerate(truths, 1) if end > duration],
    }
    assert [len(places) for places in found.values()] == [11, 27]
    assert main([str(path), "--fix", "--output", str(output)]) == 0 and len(load_samples(output)) == 789
    assert [sum(r["field"] == name for r in records(output)) for name in ("spans", "row")] == [27, 11]


@pytest.mark.slow
def test_time_r1_has_34_overlong_truths_of_which_6_are_far_outside(tmp_path):
    path = shared_file("annotations", "timer1_train_2k5.json")
    truths = [(*row["timestamp"], row["duration"]) for row in json.loads(path.read_text())]
    convert("timer1", [path], tmp_path / "timer1.jsonl")
    checked = check_file(tmp_path / "timer1.jsonl")
    far = [f"line {i}" for i, (_, end, duration) in enumerate(truths, 1) if end > 2 * duration]
    over = [f"line {i}" for i, (_, end, duration) in enumerate(truths, 1) if duration + 0.02 < end <= 2 * duration]
    assert kinds(checked) == {"span_partly_outside": over, "span_far_outside": far}
    assert (len(checked.rows), checked.clips, len(over), len(far)) == (2500, 665, 28, 6)
    [corrupt] = [row.place for row in checked.rows if row.sample.spans == ((120.0, 14220.0),)]
    assert corrupt == "line 40" and corrupt in far


def test_a_real_video_has_the_length_that_its_rows_say():
    root = shared_file("videos", "OHOFG.mp4").parent
    checked = check_file(shared_file("annotations", "charades_one_video.jsonl"), video_root=root, videos=True, workers=1)
    assert not checked.bad and checked.videos == 1 and list(checked.durations.values()) == [pytest.approx(35.14, abs=0.1)]


def test_a_span_that_is_left_out_makes_no_other_question(tmp_path):
    """None of dense queries is without its span, and no event that occurs becomes one that doesn't."""
    spans = [[1.0, 2.0], [3.0, 3.0]]
    rows = [
        {**GOOD, "id": "dense", "task": "dense", "queries": ["x", "y"], "spans": spans},
        {**GOOD, "id": "several", "task": "multi_span", "spans": spans},
        {**GOOD, "id": "lost", "task": "multi_span", "spans": spans[1:]},
        {**GOOD, "id": "none", "task": "multi_span", "query": "another", "spans": []},
    ]
    assert main([str(write(tmp_path, *rows)), "--fix"]) == 0
    samples = {sample.id: sample.spans for sample in load_samples(tmp_path / "rows.fixed.jsonl")}
    assert samples == {"several": ((1.0, 2.0),), "none": ()}


def test_what_only_some_runs_refuse_is_a_remark(tmp_path, capsys):
    """And no fault: others don't read it."""
    rows = [{**GOOD, "id": "a", "query": "a", "traces": "x"}, {**GOOD, "id": "b", "query": "b", "difficulty": "easy"}]
    rows += [{**GOOD, "id": "c", "query": "c", "traces": ["x"], "difficulty": 20, "more": None}]
    path = write(tmp_path, *rows)
    assert main([str(path)]) == 0 and not kinds(check_file(path))
    shown = capsys.readouterr().out
    assert '1 rows have traces that a run with --stage sft refuses, the first: line 1: traces: got "x"' in shown
    assert '1 rows have difficulty that a run with data.difficulty_weights refuses, the first: line 2: difficulty' in shown


def test_records_of_changes_are_json(tmp_path):
    """A duration that isn't known is not in them."""
    rows = [GOOD, {name: value for name, value in GOOD.items() if name != "duration"} | {"id": "b", "query": "b"}]
    assert main([str(write(tmp_path, *rows)), "--drop"]) == 0
    assert "NaN" not in (tmp_path / "rows.good.jsonl.changes.jsonl").read_text()
    (change,) = records(tmp_path / "rows.good.jsonl")
    assert change["field"] == "row" and "duration" not in change["before"]
