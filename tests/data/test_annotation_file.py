import json
import logging
import math

import pytest

from taro.data import annotation_file
from taro.data.annotation_file import read_rows
from taro.data.samples import SampleError, load_samples, save_samples

ROW = {"id": "a", "video": "a.mp4", "query": "a dog jumps", "spans": [[1.0, 2.5]]}
BENCHMARK = {"qid": 7, "query": "a dog jumps", "relevant_windows": [[1, 2.5]], "video_file": "a.mp4"}


@pytest.fixture
def write(tmp_path, video_file):
    """Writes rows beside a.mp4, which is a video, and empty.mp4, which is none."""
    (tmp_path / "a.mp4").symlink_to(video_file)
    (tmp_path / "empty.mp4").touch()

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize("row", [ROW, {**ROW, "duration": None}, BENCHMARK])
def test_a_duration_that_is_not_there_is_the_files(write, row, scenes):
    [sample] = load_samples(write(row))
    assert sample.duration == pytest.approx(scenes[0].duration, abs=0.1)


@pytest.mark.parametrize("row", [{**ROW, "clip": [20, 32.5]}, {**BENCHMARK, "video_start": 20, "video_end": 32.5}])
def test_a_clips_duration_needs_no_file(write, row):
    for name in ("video", "video_file"):
        if name in row:
            row = {**row, name: "none.mp4"}
    [sample] = load_samples(write(row))
    assert sample.duration == 12.5


def test_each_header_is_read_once_and_none_for_nothing(write, monkeypatch, caplog):
    asked = []

    def read(paths, workers):
        asked.append([path.name for path in paths])
        return dict.fromkeys(paths, 10.0)

    monkeypatch.setattr(annotation_file, "read_all_durations", read)
    monkeypatch.setattr(annotation_file, "MANY_HEADERS", 2)
    others = {**ROW, "id": "c", "video": "b.mp4", "duration": 4}, {**ROW, "id": "d", "clip": [0, 5]}
    path = write(ROW, {**ROW, "id": "b"}, *others)
    with caplog.at_level(logging.WARNING):
        assert [sample.duration for sample in load_samples(path)] == [10.0, 10.0, 4.0, 5.0]
    assert asked == [["a.mp4"]] and not caplog.records
    with caplog.at_level(logging.WARNING):
        load_samples(write(ROW, {**ROW, "id": "b", "video": "b.mp4"}, {**ROW, "id": "c", "video": "c.mp4"}), limit=2)
    assert asked[1:] == [["a.mp4", "b.mp4"]]
    assert "the durations of 2 videos are not there" in caplog.text and "python -m taro.prepare.check" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("video", "why"), [("none.mp4", "does not exist"), ("empty.mp4", "is empty")])
def test_without_a_readable_file_it_is_a_bad_row_that_an_evaluation_counts(write, tmp_path, video, why):
    path = write(ROW, {**ROW, "id": "b", "video": video, "spans": [[3.0, 99.0]]})
    with pytest.raises(SampleError) as error:
        load_samples(path)
    _, line, advice = str(error.value).splitlines()
    assert line.startswith("- line 2: duration: got nothing (the field is missing)") and f"/{video}: {why}" in line
    assert "set video_root" in advice
    assert [sample.id for sample in load_samples(path, bad_rows="drop")] == ["a"]
    kept = load_samples(path, bad_rows="keep")
    assert [sample.id for sample in kept] == ["a", "b"] and math.isnan(kept[1].duration)
    save_samples(kept, tmp_path / "again.jsonl", relative_to=tmp_path)
    assert "duration" not in json.loads((tmp_path / "again.jsonl").read_text().splitlines()[1])


@pytest.mark.slow
def test_other_faults_of_a_row_without_duration_are_found(write):
    captions = [{"start": 2, "end": 1, "text": "x"}]
    path = write({**ROW, "video": "none.mp4", "spans": [[3, 3]], "captions": captions})
    [row] = read_rows(path, path.parent)
    assert {fault.kind for fault in row.faults} == {"no_duration", "zero_length_span", "empty_caption"}
    assert not row.still_counts


def warnings_of(path, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_samples(path)
    return [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records]


GOOD = {**ROW, "duration": 10.0}
GOOD_BENCHMARK = {**BENCHMARK, "duration": 10.0}


def test_unknown_keys_that_are_nearly_known_ones_are_named_once(write, caplog):
    ids = [{**GOOD, "id": str(number)} for number in range(4)]
    path = write(ids[0], {**ids[1], "capton": []}, {**ids[2], "capton": [], "Clips": None}, {**ids[3], "capton": []})
    assert warnings_of(path, caplog) == [
        "the key 'capton' (3 rows, the first at line 2) is not known and not used; did you mean 'captions'?",
        "the key 'Clips' (1 rows, the first at line 3) is not known and not used; did you mean 'clip'?",
    ]
    assert load_samples(path)[1].extra == {"capton": []}


@pytest.mark.parametrize(("key", "near"), [("video_strat", "video_start"), ("vido_end", "video_end"), ("caption", "captions")])
def test_a_benchmark_rows_keys_are_those_of_its_format(write, caplog, key, near):
    [line] = warnings_of(write({**GOOD_BENCHMARK, key: []}), caplog)
    assert f"the key {key!r}" in line and line.endswith(f"did you mean {near!r}?")


@pytest.mark.parametrize("row", [GOOD, GOOD_BENCHMARK])
def test_other_keys_are_kept_without_a_word(write, caplog, row):
    extra = ["vid", "video_id", "source", "difficulty", "ious", "qsemtype", "saliency_scores", "relevant_clip_ids", "index"]
    assert warnings_of(write({**row, **dict.fromkeys(extra, 1)}), caplog) == []


def test_a_key_beside_the_one_that_it_is_near_to_is_another(write, caplog):
    assert warnings_of(write({**GOOD, "captions": [], "caption": "x"}), caplog) == []
