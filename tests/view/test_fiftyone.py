import json
import os
from dataclasses import replace

import pytest

from taro.view.evaluated import read_evaluation
from taro.view.fiftyone import export
from taro.view.timeline import ViewError


def load(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_truth_and_predictions_of_two_runs(write_evaluation, samples, tmp_path):
    runs = [read_evaluation(write_evaluation("base")), read_evaluation(write_evaluation("trained", 0.0))]
    lines = export(runs, tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"data", "truth", "predictions", "predictions_2"}
    assert load(tmp_path / "out", "data")["scene"] == os.path.abspath(samples[0].video)
    truth, answers = (load(tmp_path / "out", name)["labels"] for name in ("truth", "predictions"))
    assert set(truth) == set(answers) == {"scene", "nowhere"}
    assert truth["scene"][2] == {"label": samples[2].query, "timestamps": [1.0, 6.0], "attributes": {"sample": "s2"}}
    assert answers["scene"][2]["timestamps"] == [1.2, 6.2] and 0 < answers["scene"][2]["attributes"]["iou"] < 1
    assert len(truth["nowhere"]) == 27 and len(answers["nowhere"]) == 25  # two without an answer
    compile("\n".join(lines), "lines", "exec")


def test_clips_are_in_the_clock_of_their_file_and_equal_names_apart(write_evaluation, samples, tmp_path):
    run = read_evaluation(write_evaluation())
    moved = [replace(sample, clip=(100.0, 120.0)) for sample in run.samples]
    moved[0] = replace(moved[0], video="/other/scene.mp4")
    export([replace(run, samples=moved)], tmp_path / "out")
    truth = load(tmp_path / "out", "truth")["labels"]
    assert set(truth) == {"/other/scene.mp4", samples[1].video, "nowhere"}
    assert truth[samples[1].video][0]["timestamps"] == [100.5, 105.5]


def test_without_videos_there_is_nothing_to_export(write_evaluation, tmp_path):
    folder = write_evaluation()
    (tmp_path / "samples.jsonl").unlink()
    with pytest.raises(ViewError, match="the videos aren't known: the samples file"):
        export([read_evaluation(folder)], tmp_path / "out")
