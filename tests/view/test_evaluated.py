import json
import math

import pytest

from taro.data.samples import save_samples
from taro.evaluation.predictions import EvaluationError
from taro.rows import RowError
from taro.view.evaluated import read_evaluation
from taro.view.timeline import ViewError


def test_an_evaluation_with_its_samples(write_evaluation, samples, markup):
    found = read_evaluation(write_evaluation())
    assert [one.id for one in found.predictions] == [sample.id for sample in samples] == [one.id for one in found.samples]
    assert found.samples[0].duration == 20.0 and not found.remarks and found.model == f"base{markup}"


def test_without_its_samples_file_there_are_no_durations(write_evaluation, samples, tmp_path):
    folder = write_evaluation()
    (tmp_path / "samples.jsonl").rename(tmp_path / "moved.jsonl")
    found = read_evaluation(folder)
    assert math.isnan(found.samples[0].duration) and "not there any more" in found.remarks[0]
    assert not read_evaluation(folder, tmp_path / "moved.jsonl").remarks
    save_samples(samples[1:], tmp_path / "samples.jsonl")
    assert f"(1 differ, the first is {samples[0].id})" in read_evaluation(folder).remarks[0]


def test_before_the_metrics_are_written(write_evaluation):
    assert "--annotations" in read_evaluation(write_evaluation(finish=False)).remarks[0]


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda folder: (folder / "predictions.jsonl").unlink(), EvaluationError, "has 0 of 30 predictions: finish it"),
        (lambda folder: (folder / "config.yaml").unlink(), EvaluationError, "name a folder that a command wrote with --output"),
        (lambda folder: insert(folder, b'{"id": "s1", "que\n'), EvaluationError, r"line 2 is not JSON .*; delete the line"),
        (lambda folder: insert(folder, b"\xff\xfe\n"), EvaluationError, "line 2 is not JSON"),
        (lambda folder: insert(folder, b'["x"]\n'), EvaluationError, "line 2 is no row with an id"),
        (lambda folder: insert(folder, b'{"id": "s5"}\n{"id": "odd"}\n'), EvaluationError, "has 31 predictions of 30 samples"),
        (lambda folder: append(folder, {"id": "s5", "iou": 7}), RowError, "iou: got 7"),
        (lambda folder: (folder / "metrics.json").write_text("{"), ViewError, "metrics.json: can't be read"),
        (lambda folder: (folder / "metrics.json").write_text("[]"), ViewError, "metrics.json: holds no metrics"),
    ],
)
def test_what_can_not_be_read(write_evaluation, spoil, error, said):
    folder = write_evaluation()
    spoil(folder)
    with pytest.raises(error, match=said):
        read_evaluation(folder)


def insert(folder, line):
    lines = (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_bytes(b"".join([lines[0], line, *lines[1:]]))


def append(folder, row):
    with (folder / "predictions.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def test_flags_that_name_nothing(write_evaluation, tmp_path):
    with pytest.raises(ViewError, match=r"nowhere: no such folder; name one that eval.py wrote"):
        read_evaluation(tmp_path / "nowhere")
    with pytest.raises(ViewError, match=r"--annotations .* is not there"):
        read_evaluation(write_evaluation(), tmp_path / "no.jsonl")
    with pytest.raises(ViewError, match=r"--video_root .* is not there"):
        read_evaluation(tmp_path / "base", None, tmp_path / "no")
