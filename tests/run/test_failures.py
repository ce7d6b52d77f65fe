import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prepared_python import python

from taro.data.examples import TrainingExample
from taro.data.samples import Sample, load_samples, save_samples
from taro.run import train
from taro.run.cli import parse
from taro.run.failures import FailureLimit, SignalWatch, TooManyFailures
from taro.run.folder import print_summary
from taro.run.records import RunRecords

ROOT = Path(__file__).parents[2]


def example(number, failure=None):
    return TrainingExample(Sample(f"s{number}", "v.mp4", "query", ((0.0, 1.0),), 2.0), None, failure)


def end_step(limit, batch, step, again=0):
    """`again`: prompts that dynamic sampling has drawn in the place of others."""
    outputs = {"prompts": len(batch) + again, "failed": [one for one in batch if one.failure is not None]}
    limit.on_train_batch_end(None, None, outputs, batch, step)


def feed(limit, steps):
    """Steps as lists of booleans, one for each sample: whether it failed. Returns after which step the run ended, or None."""
    number = 0
    for step, failures in enumerate(steps, start=1):
        batch = []
        for failed in failures:
            batch.append(example(number, f"VideoError: v{number}.mp4: is empty" if failed else None))
            number += 1
        try:
            end_step(limit, batch, step)
        except TooManyFailures:
            return step
    return None


@pytest.mark.parametrize(
    ("share", "at_least", "steps", "ends_after"),
    [
        (0.25, 4, [[1, 0], [0, 0], [1, 0], [0, 0]], 3),  # 1 of 4 is not more than the share, 2 of 6 are
        (0.25, 8, [[1, 1], [1, 1], [1, 1], [1, 1]], 4),
        (0.25, 9, [[1, 1], [1, 1], [1, 1], [1, 1]], None),
        (0.0, 4, [[0, 0], [0, 0], [0, 0], [0, 1]], 4),
        (1.0, 1, [[1, 1], [1, 1]], None),
    ],
)
def test_more_than_the_share_ends_the_run(share, at_least, steps, ends_after):
    assert feed(FailureLimit("run", share, at_least), steps) == ends_after


def test_the_error_lists_failures_and_says_what_to_do(tmp_path):
    limit = FailureLimit(tmp_path, 0.2, 30)
    batch = [example(number, f"VideoError: v{number}.mp4: is empty") for number in range(30)]
    with pytest.raises(TooManyFailures) as error:
        end_step(limit, batch, 0)
    lines = str(error.value).splitlines()
    assert lines[0] == "30 of 30 training samples so far gave no prompt, more than 20%:"
    assert lines[1:21] == [f"- s{number}: VideoError: v{number}.mp4: is empty" for number in range(20)]
    assert lines[21] == "- and 10 more"
    assert str(tmp_path / "failed.jsonl") in lines[22] and "failure_limit.largest_share" in lines[22]


def test_counts_survive_a_resume():
    before, after = (FailureLimit("run", 0.25, 8) for _ in range(2))
    assert feed(before, [[1, 0], [0, 1], [0, 0]]) is None
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert feed(after, [[1, 0]]) == 1
    assert (after.training.failed, after.training.seen, len(after.training.first)) == (3, 8, 3)


def test_prompts_that_are_drawn_again_count():
    limit = FailureLimit("run", 0.25, 8)
    end_step(limit, [example(number) for number in range(4)], 1, again=4)
    assert (limit.training.seen, limit.training.failed) == (8, 0)
    outputs = {"prompts": 8, "failed": [example(number, "VideoError: is empty") for number in range(5)]}
    with pytest.raises(TooManyFailures, match="5 of 16 training samples so far"):  # the batch itself is fine
        limit.on_train_batch_end(None, None, outputs, [example(number) for number in range(4)], 2)


def test_a_run_whose_videos_were_mended_goes_on():
    before, after = (FailureLimit("run", 0.25, 4) for _ in range(2))
    assert feed(before, [[0, 0], [1, 1]]) == 2
    after.load_state_dict(before.state_dict())
    assert feed(after, [[0, 0], [0, 0]]) is None
    assert feed(after, [[0, 1]]) == 1  # 3 of 10


@pytest.fixture
def half_missing(arguments, synthetic, tmp_path):
    """Arguments of a run in which 3 of the 6 videos do not exist."""
    samples = load_samples(synthetic / "train.jsonl")
    rows = [replace(sample, video=str(tmp_path / "gone.mp4")) if n % 2 else sample for n, sample in enumerate(samples)]
    save_samples(rows, tmp_path / "train.jsonl")
    own = ["--failure_limit.largest_share=1", "--trainer.limit_val_batches=0"]  # the tests bring limits of theirs
    return [*arguments, f"--data.train_file={tmp_path}/train.jsonl", *own]


def test_training_ends_with_the_list(half_missing, fit, scripted, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(TooManyFailures) as error:
        fit(half_missing, RunRecords(folder), FailureLimit(folder, 0.4, at_least=5))
    assert str(error.value).startswith("3 of 6 training samples so far gave no prompt, more than 40%:")
    rows = [json.loads(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert f"- {row['id']}: {row['reason']}" in str(error.value)
        assert row["reason"] == f"VideoError: {tmp_path}/gone.mp4: does not exist" and 1 <= row["step"] <= 3


def test_training_goes_on_below_the_share(half_missing, fit, scripted, steps, tmp_path):
    folder, limit = tmp_path / "run", FailureLimit(tmp_path / "run", 0.5, at_least=6)
    fit(half_missing, RunRecords(folder), limit, steps)
    assert (limit.training.seen, limit.training.failed) == (12, 6) and sum(steps.column("data/failed")) == 6.0
    assert len((folder / "failed.jsonl").read_text().splitlines()) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "enough"),
    [
        ([], 6),  # all that there are
        (["--failure_limit.at_least=3"], 3),
        (["--trainer.max_steps=2"], 4),  # all that the run sees
        (["--data.prompts_per_step=4"], 4),  # the other two fill no step
    ],
)
def test_few_samples_are_enough_where_there_are_no_more(arguments, settings, enough):
    cli = parse([*arguments, *settings])
    cli.datamodule.setup("fit")
    cli.trainer.datamodule = cli.datamodule
    (limit,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, FailureLimit))
    limit.on_train_start(cli.trainer, cli.model)
    assert limit.enough == enough


def with_broken_videos(file, tmp_path):
    """Not missing ones: those are looked for before the run."""
    (tmp_path / "empty.mp4").touch()
    save_samples([replace(sample, video=str(tmp_path / "empty.mp4")) for sample in load_samples(file)], tmp_path / file.name)
    return tmp_path / file.name


@pytest.mark.slow
@pytest.mark.parametrize(("split", "seen", "steps"), [("train", 4, 2), ("validation", None, 0)])
def test_nothing_is_exported_where_all_videos_are_broken(arguments, synthetic, scripted, tmp_path, split, seen, steps):
    """In a run that is too short for the usual number of samples; of a validation before the first step."""
    file = with_broken_videos(synthetic / f"{split}.jsonl", tmp_path)
    seen = seen or len(load_samples(file))
    with pytest.raises(TooManyFailures, match=f"^{seen} of {seen} {split}.* samples .*gave no prompt") as error:
        train.main([*arguments, f"--data.{split}_file={file}", "--trainer.max_steps=2"])
    assert f"take them out of data.{split}_file" in str(error.value)
    folder = tmp_path / "run"
    assert not (folder / "hf").exists() and len(list(folder.glob("rollouts/*"))) == steps
    assert len((folder / "failed.jsonl").read_text().splitlines()) == seen


@pytest.mark.slow
def test_the_end_counts_samples_that_failed(arguments, synthetic, scripted, tmp_path, capsys):
    """Each once, however often it was met."""
    files = {split: with_broken_videos(synthetic / f"{split}.jsonl", tmp_path) for split in ("train", "validation")}
    extra = [f"--data.{split}_file={file}" for split, file in files.items()]
    train.main([*arguments, *extra, "--failure_limit.largest_share=1"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    count = len(load_samples(synthetic / "validation.jsonl"))
    assert summary["failed"] == {"training": 6, "validation": count, "test": 0}
    print_summary(summary)
    assert f"{6 + count} samples failed (6 of training, {count} of validation): see failed.jsonl" in capsys.readouterr().out


def watch(patience, shares):
    """The numbers of the steps that warned, with what was said."""
    callback, warned = SignalWatch(patience), []
    for step, share in enumerate(shares, 1):
        metrics = {"frac_reward_zero_std": share, "rewards/format/mean": 0.25, "data/failed": 16.0}
        given = {name: torch.tensor(value) for name, value in metrics.items() if value is not None}
        trainer = SimpleNamespace(callback_metrics=given)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("taro.run.failures.rank_zero_warn", lambda text, step=step: warned.append((step, text)))
            callback.on_train_batch_end(trainer, None)
    return warned


def test_silent_steps_in_a_row_warn():
    """One without groups is silent, too, and one with few that differ in anything."""
    warned = watch(10, [1.0] * 9 + [0.5] + [1.0] * 9 + [0.75] * 9 + [None] * 2)
    assert [step for step, _ in warned] == [20, 30]
    for part in ("in each of the last 10 steps", "rewards/format/mean 0.25", "data/failed 16", "model.sampling.max_tokens"):
        assert part in warned[0][1]
    assert watch(3, [0.7] * 10) == []


RANK = """
import sys
from types import SimpleNamespace
from torch import distributed
from taro.run.failures import FailureLimit, TooManyFailures

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
limit = FailureLimit("run", 0.2, at_least=8)
sample = SimpleNamespace(id=f"rank{rank}")
fine, broken = (SimpleNamespace(sample=sample, failure=failure) for failure in (None, "VideoError: is empty"))
try:
    for step in range(6):
        batch = [broken if rank == 1 and step > 1 else fine] * 2
        failed = [one for one in batch if one.failure is not None]
        limit.on_train_batch_end(None, None, {"prompts": len(batch), "failed": failed}, batch, step)
except TooManyFailures as error:
    print(step, limit.state_dict(), flush=True)
distributed.destroy_process_group()
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_ranks_count_and_stop_together(tmp_path):
    """Only one of them sees failures."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    commands = [[python(), "-c", RANK, str(rank), str(tmp_path / "store")] for rank in range(2)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for command in commands]
    printed = [rank.communicate(timeout=250)[0] for rank in ranks]
    assert printed[0] == printed[1] == f"3 {{'seen': 16, 'failed': 4, 'first': {['rank1: VideoError: is empty'] * 4}}}\n"
