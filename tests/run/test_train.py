"""Real runs of train.py: they repeat, they go on exactly where they were cut short, and they export the best step."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from checkpoint_content import assert_equal, read_all
from prepared_python import python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText, AutoTokenizer

from taro.models.checkpoint import begin
from taro.models.export import ExportError
from taro.models.export import main as export
from taro.models.settings import GroundingSettings
from taro.progress import steps_done
from taro.rl.module import GRPOModule
from taro.run import train
from taro.run.checkpoint_files import list_checkpoints
from taro.run.cli import parse, resolved_config
from taro.run.folder import print_summary
from taro.run.records import RunRecords
from taro.run.resume import ResumePoint

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parents[2]


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def checkpoint(folder, name="last"):
    return read_all(Path(folder) / "run" / "checkpoints" / f"{name}.ckpt")


def assert_same_training(one, other):
    for key in ("weights", "optimizer", "step", "optimizer_steps"):
        assert_equal(one[key], other[key])


def rollouts(folder):
    return {path.name: read_rows(path) for path in sorted((folder / "run" / "rollouts").glob("*.jsonl"))}


@pytest.fixture(scope="module")
def kept():
    return {}


@pytest.fixture
def whole_run(kept, learning, scripted, tmp_path):
    """A run of 6 steps in one go, made once: its last checkpoint and its rollouts by file."""
    if not kept:
        train.main([*learning, f"--output_dir={tmp_path}/whole"])
        kept.update(checkpoint=checkpoint(tmp_path / "whole"), rollouts=rollouts(tmp_path / "whole"))
    return kept["checkpoint"], kept["rollouts"]


def weights_of(folder):
    weights = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    return {f"policy.model.{name}": value for name, value in weights.items()}


def start_weights(arguments):
    return weights_of(next(a for a in arguments if a.startswith("--model.name_or_path=")).split("=")[1])


def assert_exported(folder, state):
    weights = weights_of(folder / "run" / "hf")
    assert all(torch.equal(weights[name], value) for name, value in state["weights"].items())


def test_a_run_repeats_bit_by_bit(whole_run, learning, tmp_path, monkeypatch):
    """Also where it saves after each step. A checkpoint is never ahead of its rollouts: a run that is killed right after it
    goes on with the next step."""
    seen = []

    def looking(path, about):
        seen.append((about["step"], len(list((tmp_path / "run" / "rollouts").iterdir()))))
        begin(path, about)

    monkeypatch.setattr("taro.run.checkpoints.begin", looking)
    train.main([*learning, "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=9"])
    assert seen == [(step, step) for step in range(1, 7)]
    again = checkpoint(tmp_path)
    assert_same_training(again, whole_run[0])
    assert rollouts(tmp_path) == whole_run[1]
    before = start_weights(learning)
    assert any(not torch.equal(value, before[name]) for name, value in again["weights"].items())
    points = [ResumePoint.read(path) for path in list_checkpoints(tmp_path / "run" / "checkpoints").values()]
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6] == [point.optimizer_steps for point in points]
    assert [point.validation_due for point in points] == [False, True] * 3
    assert list(json.loads((tmp_path / "run" / "checkpoints" / "scores.json").read_text())["scores"]) == ["0", "2", "4", "6"]


def test_another_seed_gives_another_run(whole_run, learning, tmp_path):
    train.main([*learning, "--seed_everything=1", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"])
    (name, rows), *_ = rollouts(tmp_path).items()
    assert rows != whole_run[1][name]


@pytest.mark.parametrize(("step", "where", "workers"), [(2, "rollout", 1), (5, "rollout", 0), (1, "after", 0), (3, "after", 1)])
def test_an_interrupted_run_resumes_exactly(whole_run, learning, tmp_path, cut_short, step, where, workers):
    """Weights, optimizer, order of samples, curriculum and file names are those of the run in one go."""
    arguments = [*learning, f"--data.workers={workers}"]
    cut_short(arguments, step, *([cut_short.RECORDS] if where == "after" else []))
    done = step + (where == "after")
    assert checkpoint(tmp_path)["step"] == done
    assert train.main([*arguments, "--ckpt_path=last"])["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])
    lost = {f"step_{done:06d}.jsonl"} if where == "after" else set()  # its file was what could not be written
    assert rollouts(tmp_path) == {name: rows for name, rows in whole_run[1].items() if name not in lost}


@pytest.mark.parametrize(("limit", "validation"), [("--trainer.max_steps=2", 2), ("--trainer.max_epochs=1", 50)])
def test_a_finished_run_can_be_prolonged(whole_run, learning, tmp_path, limit, validation):
    arguments = [*learning, f"--trainer.val_check_interval={validation}"]
    train.main([*arguments, limit])
    assert train.main([*arguments, "--ckpt_path=last"])["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])


def test_auto_goes_on_if_it_can(whole_run, learning, tmp_path, cut_short):
    """The same command for a new run and for each time that it was cut short, before the first step, too; records of steps that
    are made again are not there twice."""
    arguments = [*learning, "--ckpt_path=auto"]
    cut_short(arguments, 0)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["scores.json"]  # of the base model
    cut_short(arguments, 3)
    shutil.rmtree(next(tmp_path.glob("run.*")))  # nothing to go on from: a new run
    cut_short(arguments, 2)
    folder = tmp_path / "run"
    extra = folder / "rollouts" / "step_000006_rank0.jsonl"  # of a step that got no checkpoint, with other ranks
    extra.write_text("{}\n")
    others = [folder / kind / f"step_00000{step}_rank0.pt" for kind in ("skipped", "replaced") for step in (4, 6)]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    lines = ['{"step": "test", "id": "a"}', '{"step": 5, "id": "a"}', '{"step": 6, "id": "a"}', '{"st']
    (folder / "failed.jsonl").write_text("\n".join(lines))
    assert train.main(arguments)["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])
    assert rollouts(tmp_path) == whole_run[1]
    assert [path.exists() for path in others] == [True, False, True, False]
    assert (folder / "failed.jsonl").read_text().splitlines() == lines[:2]
    assert list(tmp_path.glob("run.*")) == []


def test_the_log_goes_on_where_it_was(learning, scripted, tmp_path, cut_short):
    """Each step once, and each validation; a step after the last checkpoint is made again."""
    arguments = [*learning, "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=9"]
    cut_short(arguments, 5)
    shutil.rmtree(list_checkpoints(tmp_path / "run" / "checkpoints")[5])
    train.main([*arguments, "--ckpt_path=last"])
    logged = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in logged.Scalars("reward")] == [0, 1, 2, 3, 4, 5]
    assert [event.step for event in logged.Scalars("vtg/mIoU")] == [0, 1, 3, 5]  # the first is that of the base model


SCORES = {0: 0.0, 2: 0.1, 4: 0.3, 6: 0.2}


@pytest.fixture
def scores(monkeypatch):
    """What the validation after each step gives; the returned list says after which there was one."""
    validated = []

    def log_score(module):
        validated.append(steps_done(module.trainer))
        module.log("vtg/mIoU", torch.tensor(SCORES[validated[-1]]))

    monkeypatch.setattr(GRPOModule, "on_validation_epoch_end", log_score)
    return validated


def test_what_checkpoints_hold(learning, tiny_folder, scripted, tmp_path, scores):
    """The best is that of the best validation; the last is newer. Neither holds the reference or the frozen tower."""
    train.main(learning)
    best, last = checkpoint(tmp_path, "best"), checkpoint(tmp_path)
    assert best["step"] == 4 and last["step"] == 6
    parameters = AutoModelForImageTextToText.from_pretrained(tiny_folder).named_parameters()  # tied ones once
    expected = {f"policy.model.{name}" for name, _ in parameters if ".visual." not in name}
    assert best["weights"].keys() == expected == last["weights"].keys()
    assert any(not torch.equal(best["weights"][name], last["weights"][name]) for name in expected)
    assert_exported(tmp_path, best)


@pytest.mark.parametrize(("stop", "batches"), [(2, 1), (6, 3)])
def test_a_run_that_is_cut_short_in_a_validation_begins_with_it(
    whole_run, learning, tmp_path, cut_short, scores, stop, batches
):
    """The checkpoint is there before it; also at the end of the run, where nothing is left to train."""
    cut_short(learning, batches, (GRPOModule, "validation_step"))
    assert checkpoint(tmp_path)["step"] == stop and scores == list(range(0, stop, 2))
    train.main([*learning, "--ckpt_path=last"])
    assert scores == [0, 2, 4, 6] and checkpoint(tmp_path, "best")["step"] == 4
    assert_same_training(checkpoint(tmp_path), whole_run[0])
    assert_exported(tmp_path, checkpoint(tmp_path, "best"))


@pytest.mark.parametrize("ended", [False, True])
def test_the_last_step_is_validated(learning, scripted, tmp_path, cut_short, capsys, scores, ended):
    """Once, whatever the interval, also in a run that goes on after its end; and the summary says which step was exported."""
    arguments = [*learning, "--trainer.val_check_interval=50"]
    if ended:
        cut_short(arguments, 0, (RunRecords, "on_train_end"))
        assert scores == [0]
    summary = train.main([*arguments, "--ckpt_path=auto"])
    assert scores == [0, 6]
    assert summary["best"] == {"step": 6, "vtg/mIoU": pytest.approx(0.2)}
    assert checkpoint(tmp_path, "best")["step"] == 6
    assert_exported(tmp_path, checkpoint(tmp_path))
    print_summary(summary)
    assert "hf/ is step 6 of 6, the best in validation: vtg/mIoU 0.200" in capsys.readouterr().out


@pytest.mark.parametrize("lora", [False, True])
def test_where_no_step_is_better_the_base_is_exported(
    learning, scripted, synthetic, tmp_path, monkeypatch, capsys, scores, lora
):
    monkeypatch.setitem(SCORES, 0, 0.4)
    extra = [f"--data.test_file={synthetic}/test.jsonl", "--trainer.max_steps=2", *(["--model.lora={rank: 2}"] if lora else [])]
    if lora:
        pytest.importorskip("peft")
    summary = train.main([*learning, *extra])
    assert scores == [0, 2] and summary["best"] == {"step": 0, "vtg/mIoU": pytest.approx(0.4)}
    weights, start = weights_of(tmp_path / "run" / "hf"), start_weights(learning)
    assert len(weights) == len(start) and all(torch.equal(weights[name], start[name]) for name in start)
    assert summary["after"] == summary["before"]
    print_summary(summary)
    assert "hf/ is the base model: no step scored more than its vtg/mIoU 0.400 in validation" in capsys.readouterr().out


def test_without_validations_the_last_step_is_exported(learning, scripted, tmp_path, capsys):
    """And where the disk is full at the end the error names the way back."""
    arguments = [*learning, "--trainer.limit_val_batches=0", "--trainer.max_steps=1"]
    with pytest.MonkeyPatch.context() as patched, pytest.raises(ExportError) as error:
        patched.setattr("taro.run.train.export_policy", no_room)
        train.main(arguments)
    head, command = str(error.value).split(" python -m taro.models.export ")
    assert head == "hf has no room. The training is over and saved; with room, this makes it:"
    export(shlex.split(command))
    assert_exported(tmp_path, checkpoint(tmp_path))
    summary = train.main([*arguments, "--ckpt_path=last"])
    assert summary["best"] == {"step": 1, "vtg/mIoU": None}
    print_summary(summary)
    assert "hf/ is step 1 of 1, the last one: nothing was validated" in capsys.readouterr().out


def no_room(*args):
    raise ExportError("hf has no room")


def test_the_base_model_is_measured_once(learning, scripted, synthetic, tmp_path, monkeypatch, cut_short):
    """Also where its run goes on, unless it is asked about something else."""
    measured = []
    evaluate = GRPOModule.evaluate_batch

    def counting(module, batch, metrics):
        if steps_done(module.trainer) == 0:
            measured.append("test" if metrics is module.test_metrics else "validation")
        evaluate(module, batch, metrics)

    monkeypatch.setattr(GRPOModule, "evaluate_batch", counting)
    arguments = [*learning, f"--data.test_file={synthetic}/test.jsonl", "--ckpt_path=auto"]
    cut_short(arguments, 3)
    assert measured == ["test", "validation"]
    before = train.main([*arguments, "--trainer.max_steps=4"])["before"]
    assert before["samples"] == len(read_rows(synthetic / "test.jsonl")) and measured == ["test", "validation"]
    other = f"--data.test_file={synthetic}/validation.jsonl"
    assert train.main([*arguments, other, "--trainer.max_steps=5"])["before"]["failed"] == 0
    assert measured == ["test", "validation", "test"]


def test_end_to_end(arguments, tiny_folder, synthetic, tmp_path):
    """Real rollouts, metrics before and after, and all files of the run's folder; its model loads in transformers, and its
    config gives the same config."""
    extra = ["--trainer.max_steps=2", "--model.advantages.scale=none"]
    arguments = [*arguments, f"--data.test_file={synthetic}/test.jsonl", *extra]
    summary = train.main(arguments)
    folder = tmp_path / "run"
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary.keys() == {"before", "after", "best", "failed", "steps", "seconds"}
    assert summary["steps"] == 2 and summary["seconds"] > 0
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

    model, start = weights_of(folder / "hf"), start_weights(arguments)
    assert model.keys() == start.keys()
    changed = {name for name in start if not torch.equal(model[name], start[name])}
    assert changed and not any(".visual." in name for name in changed)
    tokenizer, source = (AutoTokenizer.from_pretrained(path) for path in (folder / "hf", tiny_folder))
    assert tokenizer.get_vocab() == source.get_vocab() and tokenizer.chat_template == source.chat_template

    environment = json.loads((folder / "environment.json").read_text())
    assert environment.keys() == {"git_commit", "python", "packages"}
    assert environment["packages"]["torch"] == torch.__version__
    again = parse(["--config", str(folder / "config.yaml")])
    assert resolved_config(again) == (folder / "config.yaml").read_text()
    assert again.model.advantages.scale == "none" and again.datamodule.group_size == 3
    assert GroundingSettings.load(folder / "hf") == again.datamodule.grounding


def test_an_error_is_one_message_and_no_traceback(arguments, tmp_path):
    command = [python(), str(ROOT / "train.py"), *arguments, "--model.rollout_rows=1", "--data.train_file=nowhere.jsonl"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    lines = done.stderr[done.stderr.index("error:") :].strip().splitlines()
    assert lines[0] == "error: the configuration can't work:"
    assert len(lines) == 3 and "model.rollout_rows = 1" in lines[1] and "nowhere.jsonl" in lines[2]
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert not (tmp_path / "run").exists()
