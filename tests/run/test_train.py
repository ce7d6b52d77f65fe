import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from checkpoint_content import assert_equal, read_all
from prepared_python import python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageTextToText, AutoTokenizer

from taro.lock import FolderInUse
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

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parents[2]
LEARNING = ["--model.optimizer.learning_rate=1e-3", "--model.temporal_reward=null", "--model.group_size=2"]


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def checkpoint(folder, name="last"):
    return read_all(Path(folder) / "run" / "checkpoints" / f"{name}.ckpt")


def assert_same_training(one, other):
    for key in ("weights", "optimizer", "step", "optimizer_steps"):
        assert_equal(one[key], other[key])


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr("taro.models.qwen_vl.QwenVL.from_pretrained", None)


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
    assert any(not torch.equal(value, before[name]) for name, value in again["weights"].items())


def start_weights(arguments):
    folder = next(a for a in arguments if a.startswith("--model.name_or_path=")).split("=")[1]
    return AutoModelForImageTextToText.from_pretrained(folder).state_dict()


def test_another_seed_gives_another_run(whole_run, arguments, tmp_path):
    train.main([*arguments, *LEARNING, "--seed_everything=1"])
    assert rollouts(tmp_path) != whole_run[1]


@pytest.mark.parametrize(
    ("step", "where", "workers"),
    [
        *((step, "rollout", 0) for step in (2, 3, 5)),
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
    assert checkpoint(tmp_path)["step"] == done
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
    assert checkpoint(tmp_path)["step"] == first + second + (where == "after")
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


def test_before_the_first_step_there_is_nothing_to_go_on_from(whole_run, arguments, tmp_path, monkeypatch):
    arguments = [*arguments, *LEARNING, "--ckpt_path=auto"]
    restore = stop_in_step(monkeypatch, 0, "rollout")
    with pytest.raises(Stop):
        train.main(arguments)
    restore()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["scores.json"]  # of the base model
    train.main(arguments)
    assert_same_training(checkpoint(tmp_path), whole_run[0])


def test_auto_goes_on_if_it_can(whole_run, arguments, tmp_path, monkeypatch):
    """The same command for a new run and for each time that it was cut short; records of steps that are made again are not
    there twice."""
    arguments = [*arguments, *LEARNING, "--ckpt_path=auto"]
    for step in (3, 2):
        restore = stop_in_step(monkeypatch, step, "rollout")
        with pytest.raises(Stop):
            train.main(arguments)
        restore()
    folder = tmp_path / "run"
    extra = folder / "rollouts" / "step_000006_rank0.jsonl"  # of a step that got no checkpoint, with other ranks
    extra.write_text("{}\n")
    (folder / "skipped").mkdir()
    skipped = [folder / "skipped" / f"step_00000{step}_rank0.pt" for step in (4, 6)]
    for path in skipped:
        path.touch()
    lines = ['{"step": "test", "id": "a"}', '{"step": 5, "id": "a"}', '{"step": 6, "id": "a"}', '{"st']
    (folder / "failed.jsonl").write_text("\n".join(lines))
    assert train.main(arguments)["steps"] == 6
    assert_same_training(checkpoint(tmp_path), whole_run[0])
    assert rollouts(tmp_path) == whole_run[1]
    assert [path.exists() for path in skipped] == [True, False]
    assert (folder / "failed.jsonl").read_text().splitlines() == lines[:2]
    assert list(tmp_path.glob("run.*")) == []


def test_a_checkpoint_is_never_ahead_of_its_rollouts(arguments, scripted, tmp_path, monkeypatch):
    """A run that is killed right after it goes on with the next step."""
    seen = []

    def looking(path, about):
        seen.append((about["step"], len(list((tmp_path / "run" / "rollouts").iterdir()))))
        begin(path, about)

    monkeypatch.setattr("taro.run.checkpoints.begin", looking)
    train.main([*arguments, *LEARNING, "--checkpoint.every_n_steps=1"])
    assert seen == [(step, step) for step in range(1, 7)]


@pytest.mark.parametrize(("stop", "last"), [(1, 1), (2, 2), (3, 3), (5, 3), (5, 4)])
def test_the_log_goes_on_where_it_was(arguments, scripted, tmp_path, monkeypatch, stop, last):
    """Each step once, and each validation; steps after the last checkpoint are made again."""
    arguments = [*arguments, *LEARNING, "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=9"]
    restore = stop_in_step(monkeypatch, stop, "rollout")
    with pytest.raises(Stop):
        train.main(arguments)
    restore()
    for step, path in list_checkpoints(tmp_path / "run" / "checkpoints").items():
        if step > last:
            shutil.rmtree(path)
    train.main([*arguments, "--ckpt_path=last"])
    logged = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in logged.Scalars("reward")] == [0, 1, 2, 3, 4, 5]
    assert [event.step for event in logged.Scalars("vtg/mIoU")] == [0, 1, 3, 5]  # the first is that of the base model


def test_a_finished_run_says_so(whole_run, arguments, synthetic, tmp_path, capsys, monkeypatch):
    """And makes only what is missing of what follows training."""
    arguments = [*arguments, *LEARNING, f"--data.test_file={synthetic}/test.jsonl"]
    summary = train.main(arguments)
    again = [*arguments, "--ckpt_path=last"]
    folder = tmp_path / "run"
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr("taro.models.qwen_vl.QwenVL.from_pretrained", None)
        assert train.main(again) == summary
    line = f"the run in {folder} is finished: 6 of 6 steps. To prolong it, raise trainer.max_epochs (now 2).\n"
    assert capsys.readouterr().out.startswith(line)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "hf")
    made = train.main(again)
    assert line in capsys.readouterr().out
    assert made | {"seconds": 0} == summary | {"seconds": 0}
    assert (folder / "hf" / "model.safetensors").exists()
    assert_same_training(checkpoint(tmp_path), whole_run[0])


def test_a_summary_of_an_earlier_end_is_made_again(whole_run, arguments, tmp_path, monkeypatch):
    arguments = [*arguments, *LEARNING]
    train.main([*arguments, "--trainer.max_epochs=1"])
    with monkeypatch.context() as patched:
        patched.setattr("taro.run.train.export_policy", lambda *args: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            train.main([*arguments, "--ckpt_path=last"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 3
    assert train.main([*arguments, "--ckpt_path=last"])["steps"] == 6
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 6


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


def test_what_checkpoints_hold(arguments, tiny_folder, scripted, tmp_path, scores):
    """The best is that of the best validation; the last is newer. Neither holds the reference or the frozen tower."""
    train.main([*arguments, *LEARNING])
    best, last = checkpoint(tmp_path, "best"), checkpoint(tmp_path)
    assert best["step"] == 4 and last["step"] == 6
    parameters = AutoModelForImageTextToText.from_pretrained(tiny_folder).named_parameters()  # tied ones once
    expected = {f"policy.model.{name}" for name, _ in parameters if ".visual." not in name}
    for state in (best, last):
        assert state["weights"].keys() == expected
    assert any(not torch.equal(best["weights"][name], last["weights"][name]) for name in expected)
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "hf").state_dict()
    for name in expected:
        assert torch.equal(exported[name.removeprefix("policy.model.")], best["weights"][name])


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_that_is_cut_short_in_a_validation_begins_with_it(
    whole_run, arguments, tmp_path, monkeypatch, scores, stop
):
    """The checkpoint is there before it; also at the end of the run, where nothing is left to train."""
    arguments = [*arguments, *LEARNING]
    with monkeypatch.context() as patched:
        step_of = GRPOModule.validation_step

        def stopping(module, *args):
            if steps_done(module.trainer) == stop:
                raise Stop
            return step_of(module, *args)

        patched.setattr(GRPOModule, "validation_step", stopping)
        with pytest.raises(Stop):
            train.main(arguments)
    assert checkpoint(tmp_path)["step"] == stop and scores == list(range(0, stop, 2))
    train.main([*arguments, "--ckpt_path=last"])
    assert scores == [0, 2, 4, 6] and checkpoint(tmp_path, "best")["step"] == 4
    assert_same_training(checkpoint(tmp_path), whole_run[0])
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "hf").state_dict()
    for name, value in checkpoint(tmp_path, "best")["weights"].items():
        assert torch.equal(exported[name.removeprefix("policy.model.")], value)
    train.main([*arguments, "--ckpt_path=last"])
    assert scores == [0, 2, 4, 6]  # none is made twice


def exported_weights(folder):
    weights = AutoModelForImageTextToText.from_pretrained(folder / "run" / "hf").state_dict()
    return {f"policy.model.{name}": value for name, value in weights.items()}


@pytest.mark.parametrize("cut_short", [False, True])
def test_the_last_step_is_validated(arguments, scripted, tmp_path, monkeypatch, capsys, scores, cut_short):
    """Once, whatever the interval, also in a run that goes on after its end; and the summary says which step was exported."""
    arguments = [*arguments, *LEARNING, "--trainer.val_check_interval=50"]
    if cut_short:
        with monkeypatch.context() as patched, pytest.raises(Stop):
            patched.setattr(RunRecords, "on_train_end", lambda *args: (_ for _ in ()).throw(Stop))
            train.main(arguments)
        assert scores == [0]
    summary = train.main([*arguments, "--ckpt_path=auto"])
    assert scores == [0, 6]
    assert summary["best"] == {"step": 6, "vtg/mIoU": pytest.approx(0.2)}
    assert checkpoint(tmp_path, "best")["step"] == 6
    weights = exported_weights(tmp_path)
    assert all(torch.equal(weights[name], value) for name, value in checkpoint(tmp_path)["weights"].items())
    print_summary(summary)
    assert "hf/ is step 6 of 6, the best in validation: vtg/mIoU 0.200" in capsys.readouterr().out


@pytest.mark.parametrize("lora", [False, True])
def test_where_no_step_is_better_the_base_is_exported(
    arguments, scripted, synthetic, tmp_path, monkeypatch, capsys, scores, lora
):
    monkeypatch.setitem(SCORES, 0, 0.4)
    extra = [f"--data.test_file={synthetic}/test.jsonl", *(["--model.lora={rank: 2}"] if lora else [])]
    if lora:
        pytest.importorskip("peft")
    summary = train.main([*arguments, *LEARNING, *extra])
    assert scores == [0, 2, 4, 6] and summary["best"] == {"step": 0, "vtg/mIoU": pytest.approx(0.4)}
    weights, start = exported_weights(tmp_path), start_weights(arguments)
    assert len(weights) == len(start) and all(torch.equal(weights[f"policy.model.{name}"], start[name]) for name in start)
    assert summary["after"] == summary["before"]
    print_summary(summary)
    assert "hf/ is the base model: no step scored more than its vtg/mIoU 0.400 in validation" in capsys.readouterr().out


def test_without_validations_the_last_step_is_exported(arguments, scripted, tmp_path, capsys):
    summary = train.main([*arguments, *LEARNING, "--trainer.limit_val_batches=0", "--trainer.max_steps=1"])
    assert summary["best"] == {"step": 1, "vtg/mIoU": None}
    print_summary(summary)
    assert "hf/ is step 1 of 1, the last one: nothing was validated" in capsys.readouterr().out


def test_the_base_model_is_measured_once(arguments, scripted, synthetic, tmp_path, monkeypatch):
    """Also where its run goes on, unless it is asked about something else."""
    measured = []
    evaluate = GRPOModule.evaluate_batch

    def counting(module, batch, metrics):
        if steps_done(module.trainer) == 0:
            measured.append("test" if metrics is module.test_metrics else "validation")
        evaluate(module, batch, metrics)

    monkeypatch.setattr(GRPOModule, "evaluate_batch", counting)
    arguments = [*arguments, *LEARNING, f"--data.test_file={synthetic}/test.jsonl", "--ckpt_path=auto"]
    restore = stop_in_step(monkeypatch, 3, "rollout")
    with pytest.raises(Stop):
        train.main(arguments)
    restore()
    assert measured == ["test", "validation"]
    before = train.main(arguments)["before"]
    assert before["samples"] == len(read_rows(synthetic / "test.jsonl")) and measured == ["test", "validation"]
    other = f"--data.test_file={synthetic}/validation.jsonl"
    assert train.main([*arguments, other, "--trainer.max_epochs=3"])["before"]["failed"] == 0
    assert measured == ["test", "validation", "test"]


def test_settings_that_change_in_a_run_hold(arguments, scripted, tmp_path, capsys, monkeypatch):
    """Also those of the optimizer; the config until then is kept, and what differs is printed."""
    arguments = [*arguments, *LEARNING]
    train.main([*arguments, "--trainer.max_steps=2"])
    before = (tmp_path / "run" / "config.yaml").read_text()
    train.main([*arguments, "--trainer.max_steps=2", "--ckpt_path=last", "--trainer.max_epochs=1"])  # over already
    capsys.readouterr()
    new = ["--model.optimizer.learning_rate=1e-5", "--model.optimizer.weight_decay=0.5", "--trainer.max_steps=4"]
    used, step = [], GRPOModule.update

    def looking(module, log):
        finite = step(module, log)
        used.extend((group["lr"], group["weight_decay"]) for group in module.optimizers().param_groups)
        return finite

    monkeypatch.setattr(GRPOModule, "update", looking)
    train.main([*arguments, *new, "--ckpt_path=last"])
    assert used == [(1e-5, 0.5)] * 2
    assert (tmp_path / "run" / "config.step_2.yaml").read_text() == before
    printed = capsys.readouterr().out
    for line in ("learning_rate: 0.001 -> 1e-05", "weight_decay: 0.01 -> 0.5"):
        assert f"- model.optimizer.{line}\n" in printed
    assert "ckpt_path" not in printed
    train.main([*arguments, *new, "--trainer.max_steps=5", "--ckpt_path=auto"])
    assert "- trainer.max_steps: 4 -> 5\n" in capsys.readouterr().out


def test_a_live_run_s_folder_is_left_alone(arguments, no_weights, tmp_path, monkeypatch):
    def held(*args):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / ".run.lock").write_text('{"pid": 12, "host": "there"}\n')
    monkeypatch.setattr("fcntl.lockf", held)
    with pytest.raises(FolderInUse, match=r"run is in use by process 12 on there: wait for its end, or give this run another"):
        train.main(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.lock", "run"]


def test_a_full_disk_at_the_end_names_the_way_back(arguments, scripted, tmp_path, monkeypatch):
    def full(*args):
        raise ExportError("hf can't be written (No space left on device)")

    monkeypatch.setattr("taro.run.train.export_policy", full)
    with pytest.raises(ExportError) as error:
        train.main([*arguments, *LEARNING, "--trainer.max_steps=2"])
    head, command = str(error.value).split(" python -m taro.models.export ")
    assert head == (
        "hf can't be written (No space left on device). The training is over and saved; with room, this makes it:"
    )
    export(shlex.split(command))
    weights = exported_weights(tmp_path)
    assert all(torch.equal(weights[name], value) for name, value in checkpoint(tmp_path)["weights"].items())


def test_end_to_end(arguments, tiny_folder, synthetic, tmp_path):
    """Real rollouts, metrics before and after, and all files of the run's folder; its model loads in transformers."""
    arguments = [*arguments, f"--data.test_file={synthetic}/test.jsonl", "--trainer.max_steps=2"]
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
    command = [python(), str(ROOT / "train.py"), *arguments]
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
    assert process.returncode == 130 and "Traceback" not in output
    assert "SIGINT: stopping after this step; once more to stop at once" in output
    done = checkpoint(tmp_path)["step"]
    assert done >= 2
    summary = train.main([*arguments, "--ckpt_path=last", f"--trainer.max_steps={done + 1}"])
    assert summary["steps"] == done + 1
    assert (tmp_path / "run" / "rollouts" / f"step_{done + 1:06d}.jsonl").exists()


def test_an_error_is_one_message_and_no_traceback(arguments, tmp_path):
    process = run_command([*arguments, "--model.rollout_rows=1", "--data.train_file=nowhere.jsonl"])
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    lines = errors[errors.index("error:") :].strip().splitlines()
    assert lines[0] == "error: the configuration can't work:"
    assert len(lines) == 3 and "model.rollout_rows = 1" in lines[1] and "nowhere.jsonl" in lines[2]
    assert "Traceback" not in errors and "Warning" not in errors
    assert not (tmp_path / "run").exists()
