import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

import train
from taro.cli import parse, resolved_config
from taro.evaluation.metrics import GroundingMetrics
from taro.models.settings import GroundingSettings
from taro.rl.module import GRPOModule
from taro.rl.records import RunRecords

ROOT = Path(__file__).parent.parent
LEARNING = ["--model.optimizer.learning_rate=1e-3", "--model.temporal_reward=null", "--model.group_size=2"]


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def checkpoint(folder, name="last"):
    return torch.load(Path(folder) / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_equal_states(one, other):
    """Bit-equal tensors and equal numbers, all the way down."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal_states(a, b)
    else:
        assert one == other


def assert_same_training(one, other):
    for key in ("state_dict", "optimizer_states", "global_step"):
        assert_equal_states(one[key], other[key])


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def whole_run(kept, arguments, scripted, tmp_path):
    """A run of 6 steps in one go, made once: its last checkpoint and its rollouts by file."""
    if not kept:
        train.main([*arguments, *LEARNING, f"--output_dir={tmp_path}/whole"])
        kept.update(checkpoint=checkpoint(tmp_path / "whole"), rollouts=rollouts(tmp_path / "whole"))
    return kept["checkpoint"], kept["rollouts"]


def rollouts(folder):
    return {path.name: read_rows(path) for path in sorted((folder / "run" / "rollouts").glob("*.jsonl"))}


class Stop(Exception):
    pass


def stop_in_step(monkeypatch, step, where):
    """An exception in the middle of the step number `step` (from 0), before or after its update."""
    owner, name = (GRPOModule, "rollout") if where == "rollout" else (RunRecords, "on_train_batch_end")
    original, calls = getattr(owner, name), []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == step + 1:
            raise Stop
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)
    return lambda: monkeypatch.setattr(owner, name, original)


def test_a_run_repeats_bit_by_bit(whole_run, arguments, tmp_path):
    train.main([*arguments, *LEARNING])
    again = checkpoint(tmp_path)
    assert_same_training(again, whole_run[0])
    assert rollouts(tmp_path) == whole_run[1]
    before = {f"policy.model.{k}": v for k, v in start_weights(arguments).items()}
    assert any(not torch.equal(value, before[name]) for name, value in again["state_dict"].items())


def start_weights(arguments):
    folder = next(a for a in arguments if a.startswith("--model.name_or_path=")).split("=")[1]
    return AutoModelForImageTextToText.from_pretrained(folder).state_dict()


def test_another_seed_gives_another_run(whole_run, arguments, tmp_path):
    train.main([*arguments, *LEARNING, "--seed_everything=1"])
    assert rollouts(tmp_path) != whole_run[1]


@pytest.mark.parametrize(
    ("step", "where", "workers"),
    [
        *((step, "rollout", 0) for step in (0, 2, 3, 5)),
        (4, "rollout", 1),
        (1, "after", 0),
        (2, "after", 1),
        (5, "after", 0),
    ],
)
def test_an_interrupted_run_resumes_exactly(whole_run, arguments, tmp_path, monkeypatch, step, where, workers):
    """Weights, optimizer, order of samples, curriculum and file names are those of the run in one go."""
    arguments = [*arguments, *LEARNING, f"--data.workers={workers}"]
    restore = stop_in_step(monkeypatch, step, where)
    with pytest.raises(Stop):
        train.main(arguments)
    restore()
    done = step + (where == "after")
    assert checkpoint(tmp_path)["global_step"] == done
    summary = train.main([*arguments, "--ckpt_path=last"])
    assert summary["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])
    written = rollouts(tmp_path)
    lost = {f"step_{done:06d}.jsonl"} if where == "after" else set()  # its file was what could not be written
    assert written == {name: rows for name, rows in whole_run[1].items() if name not in lost}


@pytest.mark.parametrize(("first", "second", "where"), [(2, 1, "rollout"), (1, 1, "after"), (2, 3, "after")])
def test_a_run_may_be_interrupted_twice(whole_run, arguments, tmp_path, monkeypatch, first, second, where):
    arguments = [*arguments, *LEARNING]
    for extra, step, place in (([], first, "rollout"), (["--ckpt_path=last"], second, where)):
        restore = stop_in_step(monkeypatch, step, place)
        with pytest.raises(Stop):
            train.main([*arguments, *extra])
        restore()
    assert checkpoint(tmp_path)["global_step"] == first + second + (where == "after")
    assert train.main([*arguments, "--ckpt_path=last"])["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])


@pytest.mark.parametrize(
    ("limit", "validation"),
    [
        ("--trainer.max_steps=2", 2),
        ("--trainer.max_steps=2", 50),
        ("--trainer.max_steps=3", 50),
        ("--trainer.max_epochs=1", 3),
        ("--trainer.max_epochs=1", 50),
    ],
)
def test_a_finished_run_can_be_prolonged(whole_run, arguments, tmp_path, limit, validation):
    arguments = [*arguments, *LEARNING, f"--trainer.val_check_interval={validation}"]
    train.main([*arguments, limit])
    summary = train.main([*arguments, "--ckpt_path=last"])
    assert summary["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])


def test_a_finished_run_is_finished(whole_run, arguments, tmp_path):
    train.main([*arguments, *LEARNING])
    assert train.main([*arguments, *LEARNING, "--ckpt_path=last"])["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])


def test_what_checkpoints_hold(arguments, scripted, tmp_path, monkeypatch):
    """The best is that of the best validation; the last is newer. Neither holds the reference or the frozen tower."""
    scores = iter([0.1, 0.3, 0.2])
    monkeypatch.setattr(GroundingMetrics, "compute", lambda self: {"mIoU": torch.tensor(next(scores))})
    train.main([*arguments, *LEARNING])
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step=4.ckpt"]
    best, last = checkpoint(tmp_path, "step=4"), checkpoint(tmp_path)
    assert best["global_step"] == 4 and last["global_step"] == 6
    names = {f"policy.model.{name}" for name in start_weights(arguments)}
    expected = {name for name in names if ".visual." not in name}
    for state in (best, last):
        assert state["state_dict"].keys() == expected
    assert any(not torch.equal(best["state_dict"][name], last["state_dict"][name]) for name in expected)
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "hf").state_dict()
    for name in expected:
        assert torch.equal(exported[name.removeprefix("policy.model.")], best["state_dict"][name])


def test_last_is_written_where_validation_gets_no_better(arguments, scripted, tmp_path, monkeypatch):
    """Also where the first validation is the best: a run loses no more than the steps since its last validation."""
    restore = stop_in_step(monkeypatch, 5, "rollout")
    monkeypatch.setattr("taro.rl.checkpoint.LastCheckpoint.on_exception", lambda *args: None)
    with pytest.raises(Stop):
        train.main([*arguments, *LEARNING])
    restore()
    assert checkpoint(tmp_path)["global_step"] == 4
    assert (tmp_path / "run" / "checkpoints" / "step=2.ckpt").exists()


def test_end_to_end(arguments, tiny_folder, synthetic, tmp_path):
    """Real rollouts, metrics before and after, and all files of the run's folder; its model loads in transformers."""
    arguments = [*arguments, f"--data.test_file={synthetic}/test.jsonl", "--trainer.max_steps=2"]
    summary = train.main(arguments)
    folder = tmp_path / "run"
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary.keys() == {"before", "after", "steps", "seconds"} and summary["steps"] == 2 and summary["seconds"] > 0
    tested = len(read_rows(synthetic / "test.jsonl"))
    for part in ("before", "after"):
        assert summary[part].keys() >= {"mIoU", "R1@0.3", "R1@0.5", "R1@0.7", "parse_rate", "timestamp_rate", "failed"}
        assert summary[part]["samples"] == tested and summary[part]["failed"] == 0

    assert sorted(path.name for path in (folder / "rollouts").iterdir()) == ["step_000001.jsonl", "step_000002.jsonl"]
    rows = read_rows(folder / "rollouts" / "step_000001.jsonl")
    assert len(rows) == 6 and len({row["id"] for row in rows}) == 2
    fields = {"id", "query", "spans", "completion", "answer", "constructed", "finished", "iou", "temporal_gap", "rewards"}
    assert all(row.keys() >= fields for row in rows)
    assert all(row["rewards"].keys() == {"format", "timestamp_iou", "temporal"} for row in rows)
    assert list(folder.glob("events.out.tfevents.*"))

    model = AutoModelForImageTextToText.from_pretrained(folder / "hf").state_dict()
    start = start_weights(arguments)
    assert model.keys() == start.keys()
    changed = {name for name in start if not torch.equal(model[name], start[name])}
    assert changed and not any(".visual." in name for name in changed)
    tokenizer, source = (AutoTokenizer.from_pretrained(path) for path in (folder / "hf", tiny_folder))
    assert tokenizer.get_vocab() == source.get_vocab() and tokenizer.chat_template == source.chat_template
    assert GroundingSettings.load(folder / "hf") == parse(arguments).datamodule.grounding

    environment = json.loads((folder / "environment.json").read_text())
    assert environment.keys() == {"git_commit", "python", "packages"}
    assert environment["packages"]["torch"] == torch.__version__


def test_the_written_config_gives_the_same_config(arguments, scripted, tmp_path):
    train.main([*arguments, *LEARNING, "--trainer.max_steps=1", "--model.advantages.scale=none"])
    written = tmp_path / "run" / "config.yaml"
    again = parse(["--config", str(written)])
    assert resolved_config(again) == written.read_text()
    assert again.model.optimizer_settings.learning_rate == 1e-3
    assert again.model.temporal_reward is None and again.model.advantages.scale == "none"
    assert again.datamodule.group_size == 2


def test_an_earlier_run_of_the_same_name_is_kept(arguments, scripted, tmp_path, capsys):
    arguments = [*arguments, *LEARNING, "--trainer.max_steps=1"]
    train.main(arguments)
    earlier = (tmp_path / "run" / "summary.json").read_bytes()
    train.main(arguments)
    kept = [path for path in tmp_path.iterdir() if path.name.startswith("run.")]
    assert len(kept) == 1 and (kept[0] / "summary.json").read_bytes() == earlier
    assert (tmp_path / "run" / "summary.json").read_bytes() != earlier
    assert f"is kept as {kept[0]}" in capsys.readouterr().out


def run_command(arguments, **settings):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(arguments, tmp_path):
    arguments = [*arguments, "--trainer.max_epochs=1000", "--trainer.val_check_interval=1000"]
    process = run_command(arguments)
    deadline = time.time() + 120
    while not (tmp_path / "run" / "rollouts" / "step_000002.jsonl").exists():
        assert process.poll() is None and time.time() < deadline, process.communicate()
        time.sleep(0.05)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    process.send_signal(signal.SIGINT)
    output = "".join(process.communicate(timeout=60))
    assert process.returncode == 1 and "Traceback" not in output
    done = checkpoint(tmp_path)["global_step"]
    assert done >= 2
    summary = train.main([*arguments, "--ckpt_path=last", f"--trainer.max_steps={done + 1}"])
    assert summary["steps"] == done + 1
    assert (tmp_path / "run" / "rollouts" / f"step_{done + 1:06d}.jsonl").exists()


def test_an_error_is_one_message_and_no_traceback(arguments, tmp_path):
    process = run_command([*arguments, "--model.group_size=1", "--data.train_file=nowhere.jsonl"])
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    lines = errors[errors.index("error:") :].strip().splitlines()
    assert lines[0] == "error: the configuration can't work:"
    assert len(lines) == 3 and "model.group_size = 1" in lines[1] and "nowhere.jsonl" in lines[2]
    assert "Traceback" not in errors and "Warning" not in errors
    assert not (tmp_path / "run").exists()
