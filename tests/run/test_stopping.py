"""Signals: in this process, and to real ones with one and two ranks."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from prepared_python import Command

from taro.models.checkpoint import read_run
from taro.progress import steps_done
from taro.rl.module import GRPOModule
from taro.run import train
from taro.run.checkpoint_files import list_checkpoints
from taro.run.resume import ResumePoint
from taro.run.stopping import SIGNALS, RunStopped, StopOnSignal

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def send(monkeypatch):
    """Sends signals to this process whenever a method of the module begins after a number of steps."""

    def install(method, step, *numbers):
        original = getattr(GRPOModule, method)

        def sending(module, *args):
            if steps_done(module.trainer) == step:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return original(module, *args)

        monkeypatch.setattr(GRPOModule, method, sending)

    return install


def checkpoint(tmp_path):
    return read_run(tmp_path / "run" / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_the_step_is_finished_and_saved(learning, scripted, tmp_path, send, capfd, number, code):
    before = [signal.getsignal(number) for number in SIGNALS]
    send("training_step", 2, number)
    with pytest.raises(RunStopped, match=f"stopped by {number.name} after step 3") as stopped:
        train.main(learning)
    assert stopped.value.exit_code == code
    assert f"{number.name}: stopping after this step" in capfd.readouterr().err
    assert list(list_checkpoints(tmp_path / "run" / "checkpoints")) == [2, 3]
    assert (tmp_path / "run" / "rollouts" / "step_000003.jsonl").exists()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_before_a_validation_it_is_left_for_later(learning, scripted, tmp_path, send):
    """A scheduler gives seconds, a validation may take minutes."""
    send("training_step", 3, signal.SIGTERM)
    with pytest.raises(RunStopped, match="after step 4"):
        train.main(learning)
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[4]
    assert ResumePoint.read(newest).validation_due
    scores = tmp_path / "run" / "checkpoints" / "scores.json"
    assert list(json.loads(scores.read_text())["scores"]) == ["0", "2"]
    send("training_step", 4, signal.SIGTERM)
    with pytest.raises(RunStopped, match="after step 5"):
        train.main([*learning, "--ckpt_path=auto"])
    assert list(json.loads(scores.read_text())["scores"]) == ["0", "2", "4"]


def test_in_a_validation_after_its_batch(learning, scripted, tmp_path, send, monkeypatch):
    batches = []
    evaluate = GRPOModule.evaluate_batch

    def counting(module, *args):
        batches.append(steps_done(module.trainer))
        evaluate(module, *args)

    monkeypatch.setattr(GRPOModule, "evaluate_batch", counting)
    send("validation_step", 2, signal.SIGTERM)
    with pytest.raises(RunStopped, match="after step 2"):
        train.main([*learning, "--data.evaluation_batch=1"])
    assert batches.count(2) == 1 and ResumePoint.read(tmp_path / "run" / "checkpoints" / "last.ckpt").validation_due
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_in_the_last_step_the_rest_is_left_for_later(learning, scripted, tmp_path, send, capsys):
    send("training_step", 5, signal.SIGTERM)
    with pytest.raises(RunStopped, match="after step 6"):
        train.main(learning)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert train.main([*learning, "--ckpt_path=auto"])["steps"] == 6
    assert "is finished: 6 of 6 steps" in capsys.readouterr().out
    scores = json.loads((tmp_path / "run" / "checkpoints" / "scores.json").read_text())["scores"]
    assert list(scores) == ["0", "2", "4", "6"]


def test_slurm_is_as_everywhere(learning, scripted, tmp_path, send, monkeypatch):
    """Lightning would write a checkpoint of its own in the middle of the step, and requeue the job."""
    variables = {"JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "NTASKS": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector.call", None)
    requeueing = []
    start = StopOnSignal.on_train_start

    def looking(self, trainer, *args):
        requeueing.append(trainer._accelerator_connector.cluster_environment.auto_requeue)
        start(self, trainer)

    monkeypatch.setattr(StopOnSignal, "on_train_start", looking)
    send("training_step", 2, signal.SIGUSR1)
    with pytest.raises(RunStopped, match="stopped by SIGUSR1 after step 3"):
        train.main(learning)
    assert all(requeueing) and not list(tmp_path.rglob("hpc_ckpt*"))
    assert list(list_checkpoints(tmp_path / "run" / "checkpoints")) == [2, 3]


def test_a_second_ctrl_c_does_not_wait(learning, scripted, tmp_path, send):
    send("training_step", 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit) as leaving:
        train.main(learning)
    assert leaving.value.code == 1 and checkpoint(tmp_path)["step"] == 3


def test_an_evaluation_is_ended_at_once(learning, scripted, synthetic, tmp_path, send, capfd):
    send("test_step", 0, signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving:
        train.main([*learning, f"--data.test_file={synthetic}/test.jsonl"])
    assert "SIGTERM: stopping at once" in capfd.readouterr().err
    assert leaving.value.code == 143 and not list((tmp_path / "run").glob("checkpoints/*"))


def start(arguments, environment, log):
    with log.open("w") as file:
        return Command([ROOT / "train.py", *arguments], env=environment, stdout=file.fileno(), stderr=file.fileno())


def wait_for(path, process, log):
    deadline = time.time() + 150
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None and time.time() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


def is_alive(pid):
    """A process that has ended and that nobody has asked for its code is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def sample_ids(folder):
    """Of each step, over all ranks."""
    ids = {}
    for path in sorted((folder / "rollouts").glob("step_*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        ids.setdefault(int(path.name[5:11]), set()).update(row["id"] for row in rows)
    return ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "receiver", "number"),
    [
        (1, 0, signal.SIGINT),
        pytest.param(2, 0, signal.SIGTERM, marks=pytest.mark.distributed),
        pytest.param(2, 1, signal.SIGTERM, marks=pytest.mark.distributed),
    ],
)
def test_a_signal_ends_all_ranks_with_a_checkpoint(short, tmp_path, rank_environment, ranks, receiver, number):
    """Whichever rank gets it; and one rank goes on with the samples of two."""
    arguments, log = [*short, "--trainer.accelerator=cpu", "--trainer.limit_val_batches=0"], tmp_path / "log"
    extra = [f"--trainer.devices={ranks}", "--trainer.max_epochs=99"]
    process = start([*arguments, *extra], rank_environment, log)
    wait_for(tmp_path / "run" / "rollouts" / "step_000003*", process, log)
    others = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    others = [int(pid) for pid in others if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(others) == ranks - 1
    os.kill([process.pid, *others][receiver], number)
    code, said = process.wait(timeout=100), log.read_text()
    assert code == 128 + number and "Traceback" not in said, said[-3000:]
    deadline = time.time() + 100
    while any(is_alive(pid) for pid in others):
        assert time.time() < deadline
        time.sleep(0.05)
    done = checkpoint(tmp_path)["step"]
    line = f"stopped by {number.name} after step {done}; the same command with --ckpt_path auto goes on from there"
    assert line in said.splitlines()
    limit = f"--trainer.max_steps={done + 2}"
    assert train.main([*arguments, "--trainer.max_epochs=99", "--ckpt_path=auto", limit])["steps"] == done + 2
    train.main([*arguments, "--trainer.max_epochs=99", "--name=one", limit])
    assert sample_ids(tmp_path / "run") == sample_ids(tmp_path / "one")
