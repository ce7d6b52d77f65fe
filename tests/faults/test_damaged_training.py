"""Training on data of which a part is damaged, with workers: each damaged video costs its group, is counted, and is listed
with its reason."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from taro.data.samples import load_samples, save_samples
from taro.models.qwen_vl import QwenVL
from taro.run.failures import FailureLimit, TooManyFailures
from taro.run.records import RunRecords

pytestmark = pytest.mark.slow  # as a whole file: real runs


@pytest.fixture
def damaged_run(arguments, synthetic, damages, tmp_path):
    """Arguments of a run with workers, and the ids of the samples whose videos are damaged: a video each."""

    def make(*names):
        samples = load_samples(synthetic / "train.jsonl")
        rows, ids = [], {}
        for number, sample in enumerate(samples):
            if number < len(names):
                path = tmp_path / f"{names[number]}.mp4"
                damages[names[number]].make(path, Path(sample.video).read_bytes(), random.Random(number))
                sample = replace(sample, video=str(path))
                ids[sample.id] = str(path)
            rows.append(sample)
        save_samples(rows, tmp_path / "train.jsonl")
        extra = [f"--data.train_file={tmp_path}/train.jsonl", "--data.workers=2", "--trainer.limit_val_batches=0"]
        extra.append("--failure_limit.largest_share=1")  # the tests bring limits of theirs
        return [*arguments, *extra], ids

    return make


def failed_rows(folder):
    path = folder / "failed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_each_damaged_video_costs_its_group(damaged_run, fit, scripted, steps, tmp_path, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    arguments, ids = damaged_run("pipe", "cut", "tail_never_written")
    folder = tmp_path / "run"
    fit([*arguments, f"--data.grounding.video.backend={backend}"], RunRecords(folder), FailureLimit(folder, 0.5, 6), steps)
    failed = [float(sum(example.prompt is None for example in batch)) for batch in steps.batches]
    assert steps.column("data/failed") == failed and sum(failed) == 2 * len(ids)  # epochs
    assert [len(records) for records in steps.records] == [3 * (2 - count) for count in failed]  # completions
    rows = failed_rows(folder)
    assert sorted(row["id"] for row in rows) == sorted([*ids, *ids])
    for row in rows:
        assert row["video"] == ids[row["id"]] and row["reason"].startswith(f"VideoError: {row['video']}: ")


def test_steps_of_damaged_videos_alone_change_nothing(damaged_run, tiny_folder, fit, scripted, steps, tmp_path):
    arguments, _ = damaged_run("missing", "empty", "text", "directory", "sound_only", "no_pictures")
    folder = tmp_path / "run"
    cli = fit(arguments, RunRecords(folder), FailureLimit(folder, 1.0), steps)
    assert steps.column("data/failed") == [2.0] * 6 and not any(steps.records)
    assert len(failed_rows(folder)) == 12
    said = [row["reason"].removeprefix(f"VideoError: {row['video']}: ") for row in failed_rows(folder)]
    reasons = {re.split(r" \(|: ", reason)[0] for reason in said}
    opened = {"has no picture stream", "is not a video file of a kind that is read"}
    assert reasons == opened | {"does not exist", "is empty", "cannot be decoded", "is not a file"}
    before = QwenVL.from_pretrained(tiny_folder).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in cli.model.policy.state_dict().items())


def test_too_many_of_them_end_the_run(damaged_run, fit, scripted, steps, tmp_path):
    arguments, _ = damaged_run("missing", "empty", "pipe", "lose_start")
    folder = tmp_path / "run"
    with pytest.raises(TooManyFailures, match=r"^[34] of [46] training samples so far gave no prompt, more than 50%:") as error:
        fit(arguments, RunRecords(folder), FailureLimit(folder, 0.5, at_least=4), steps)
    assert len(steps.batches) < 3  # the callback after it no longer sees the last step
    listed = [f"- {row['id']}: {row['reason']}" for row in failed_rows(folder)]
    assert listed == [line for line in str(error.value).splitlines() if line.startswith("- ")]
    assert str(folder / "failed.jsonl") in str(error.value)
