"""When checkpoints are written and which are kept; killed at every point, and on a full disk."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from checkpoint_content import assert_equal, read_all
from lightning.pytorch.trainer.states import TrainerFn
from prepared_python import python
from torch import distributed

from taro.models.checkpoint import CheckpointError, find_fault, write
from taro.run import train
from taro.run.checkpoint_files import find_checkpoint, list_checkpoints
from taro.run.checkpoints import Checkpoints

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parents[2]
SCORES = (0.1, 0.5, 0.2, 0.5, float("nan"), 0.3)  # after steps 1 to 6


class Run:
    """Stands in for a trainer: whose one weight and optimizer state are its step, and whose validation gives SCORES."""

    world_size, global_rank, is_global_zero, strategy, max_epochs, max_steps = 1, 0, True, None, 1, -1

    def __init__(self):
        self.state = SimpleNamespace(fn=TrainerFn.FITTING)
        self.datamodule = SimpleNamespace(samples={"train": range(100)}, prompts_per_step=1)
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.optimizers = [torch.optim.AdamW([self.weight])]
        policy = SimpleNamespace(trained_weights=lambda: {"policy.a": self.weight})
        self.lightning_module = SimpleNamespace(policy=policy, loss=SimpleNamespace(updates=1))
        self.count = SimpleNamespace(processed=0, ready=0)
        loop = SimpleNamespace(
            batch_progress=SimpleNamespace(total=self.count),
            val_loop=SimpleNamespace(run=lambda: self.checkpoints.on_validation_end(self, None)),
            _should_check_val_fx=lambda fetcher: True,
        )
        self.fit_loop = SimpleNamespace(epoch_loop=loop, _data_fetcher=None, load_state_dict=self.begin)

    def begin(self, counters):
        self.set_step(counters["epoch_loop.batch_progress"]["total"]["processed"])

    def set_step(self, step):
        self.count.processed = self.count.ready = self.global_step = step

    @property
    def callback_metrics(self):
        return {"vtg/mIoU": torch.tensor(SCORES[self.count.processed - 1])}

    def train(self, checkpoints, last=6):
        """As Lightning calls the callback; goes on from what is in its folder."""
        self.checkpoints, self.callbacks = checkpoints, [checkpoints]
        checkpoints.described = {"identity": {}, "model": {}}
        checkpoints.resume_from = find_checkpoint("auto", checkpoints.folder)
        checkpoints.on_fit_start(self, self.lightning_module)
        checkpoints.on_train_start(self, None)
        for step in range(self.count.processed + 1, last + 1):
            assert torch.equal(self.weight, torch.full((3,), step - 1.0))
            with torch.no_grad():
                self.weight.fill_(step)
            self.optimizers[0].state[self.weight] = {"exp_avg": torch.full((3,), float(step))}
            self.set_step(step)
            checkpoints.on_train_batch_end(self, None, None, None, 0)
            checkpoints.on_validation_start(self, None)
            checkpoints.on_validation_end(self, None)
        checkpoints.on_train_end(self, None)
        return checkpoints


@pytest.mark.parametrize(
    ("settings", "kept", "best"),
    [
        ({}, {4, 5, 6}, 4),  # of equal ones the later
        ({"keep_last": 1, "keep_best": 0}, {6}, 6),
        ({"keep_last": 5}, {2, 3, 4, 5, 6}, 4),
        ({"keep_last": 1, "keep_best": 9}, {1, 2, 3, 4, 6}, 4),  # one without a score is none of the best
    ],
)
def test_which_are_kept(tmp_path, settings, kept, best):
    checkpoints = Run().train(Checkpoints(tmp_path, **settings))
    assert set(list_checkpoints(tmp_path)) == kept
    assert checkpoints.best_step == best
    assert (tmp_path / "last.ckpt").resolve().name == "step_000006.ckpt"
    if settings.get("keep_best", 1):
        assert (tmp_path / "best.ckpt").resolve() == tmp_path / f"step_{best:06d}.ckpt"
    again = Run().train(Checkpoints(tmp_path, **settings))  # what is best is known after a restart
    assert again.best_step == best and set(list_checkpoints(tmp_path)) == kept


def test_scores_of_another_metric_choose_nothing(tmp_path):
    Run().train(Checkpoints(tmp_path))
    stored = json.loads((tmp_path / "scores.json").read_text())
    assert stored["monitor"] == "vtg/mIoU" and stored["scores"]["2"] == 0.5
    (tmp_path / "scores.json").write_text(json.dumps(stored | {"monitor": "vtg/R1@0.5"}))
    checkpoints = Run().train(Checkpoints(tmp_path))
    assert checkpoints.scores == {6: pytest.approx(0.3)} and checkpoints.best_step == 6


@pytest.mark.parametrize(("score", "best"), [(0.6, 0), (0.5, 4), (0.1, 4), (float("nan"), 4)])
def test_the_base_model_is_step_zero(tmp_path, score, best):
    """It has no checkpoint; links and what is kept are of those that there are. Its score is known after a restart."""
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.read_scores()
        assert bool(checkpoints.scores) == (tmp_path / "scores.json").exists()
        checkpoints.scores[0] = score
        Run().train(checkpoints)
        assert checkpoints.best_step == best
        assert (tmp_path / "best.ckpt").resolve().name == "step_000004.ckpt"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_engine_that_is_restarted_takes_no_group_along(tmp_path, no_process_group, asynchronous):
    """vLLM sets up torch.distributed in a process of its own, and ends all groups with its engine."""

    def start():
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/{time.monotonic_ns()}", rank=0, world_size=1)

    class Restarting(Checkpoints):
        def on_train_batch_end(self, trainer, *others):
            super().on_train_batch_end(trainer, *others)
            if trainer.count.processed == 3:
                self.finish(trainer)
                distributed.destroy_process_group()
                start()

    (tmp_path / "kept").mkdir()
    start()
    Run().train(Restarting(tmp_path / "kept", keep_last=6, asynchronous=asynchronous))
    distributed.destroy_process_group()
    assert set(list_checkpoints(tmp_path / "kept")) == {1, 2, 3, 4, 5, 6}


class Killed(BaseException):
    pass


OPERATIONS = ["os.replace", "os.rename", "os.fsync", "os.symlink", "os.unlink", "os.mkdir", "shutil.rmtree", "torch.save"]


def kill_at(patched, number):
    """Before the operation with this number, among those that change a file."""
    made = []

    def dying(original):
        def operation(*args, **kwargs):
            made.append(1)
            if len(made) == number:
                raise Killed
            return original(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        module, attribute = name.split(".")
        patched.setattr(name, dying(getattr(sys.modules[module], attribute)))


def test_killed_at_any_point(tmp_path, monkeypatch):
    """There is always a whole one to go on from, not older than the last that was finished, and the best of the scores that
    are known; going on gives what a run in one go gives."""
    whole = Run().train(Checkpoints(tmp_path / "whole", keep_last=1), last=4)
    number, finished = 0, False
    while not finished:
        number += 1
        folder, run = tmp_path / str(number), Run()
        folder.mkdir()
        with monkeypatch.context() as patched:
            kill_at(patched, number)
            try:
                run.train(Checkpoints(folder, keep_last=1), last=4)
                finished = True
            except (Killed, CheckpointError):  # the latter from within PyTorch's writer, which takes all for errors
                pass
        paths, step = list_checkpoints(folder), run.count.processed
        assert all(find_fault(path) is None for path in paths.values()), number
        assert max(paths, default=0) in (step - 1, step), number
        scored = json.loads((folder / "scores.json").read_text())["scores"] if (folder / "scores.json").exists() else {}
        known = {int(step): score for step, score in scored.items() if score == score}
        if known:
            assert max(known, key=lambda step: (known[step], step)) in paths, number
        after = Run().train(Checkpoints(folder, keep_last=1), last=4)
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.folder.iterdir()), number
        assert after.best_step == whole.best_step
        assert (folder / "scores.json").read_text() == (whole.folder / "scores.json").read_text()
    assert number > 40


@pytest.mark.parametrize("name", ["run.json", ".metadata", "__0_0.distcp"])
def test_damaged_ones_are_set_aside(tmp_path, name):
    Run().train(Checkpoints(tmp_path, keep_last=3), last=4)
    damaged = list_checkpoints(tmp_path)[4] / name
    os.truncate(damaged, damaged.stat().st_size // 2)
    with pytest.warns(UserWarning, match="step_000004.ckpt is damaged"):
        checkpoints = Run().train(Checkpoints(tmp_path, keep_last=3), last=3)
    assert set(checkpoints.scores) == {1, 2, 3}  # that of a step that is made again is not known yet
    Run().train(Checkpoints(tmp_path, keep_last=3), last=6)
    assert set(list_checkpoints(tmp_path)) == {4, 5, 6} and (tmp_path / "step_000004.ckpt.damaged").exists()
    assert all(find_fault(path) is None for path in list_checkpoints(tmp_path).values())


def test_what_keeps_one_rank_from_writing_is_an_error_on_all(tmp_path, monkeypatch):
    monkeypatch.setattr("taro.run.checkpoints.gather", lambda reason: [reason, "No space left on device"])
    with pytest.raises(CheckpointError, match=r"step_000001.ckpt can't be written \(No space left on device\): there is no"):
        Run().train(Checkpoints(tmp_path))
    assert list(tmp_path.iterdir()) == []


class StopInUpdate(L.Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 3:
            raise KeyError("in the middle of an update")


@pytest.mark.parametrize(("saved", "asynchronous"), [(2, False), (3, True)])
def test_a_step_that_was_cut_short_in_its_update_is_not_saved(fit, learning, scripted, tmp_path, saved, asynchronous):
    """Its weights belong to no step. One from before that is being written is finished."""
    extra = [f"--checkpoint.every_n_steps={saved}", f"--checkpoint.asynchronous={asynchronous}"]
    with pytest.raises(KeyError, match="in the middle"):
        fit([*learning, *extra], StopInUpdate())
    assert list(list_checkpoints(tmp_path / "run" / "checkpoints")) == [saved]


FULL = """
import resource, sys
import lightning as L
from taro.models.checkpoint import CheckpointError
from taro.run import train
from taro.run.records import RunRecords

records = RunRecords.on_train_batch_end


def fill(self, trainer, *args):
    records(self, trainer, *args)
    if trainer.global_step == 3 and trainer.global_rank == int(sys.argv[1]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))


RunRecords.on_train_batch_end = fill
try:
    train.main(sys.argv[2:])
except CheckpointError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def run_script(rank_environment):
    def run(script, *arguments, timeout=200):
        command = [python(), str(script), *arguments]
        return subprocess.run(command, env=rank_environment, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "extra"),
    [
        (0, []),
        pytest.param(0, ["--trainer.devices=2"], marks=pytest.mark.distributed, id="ddp"),
        pytest.param(1, ["--trainer.devices=2", "--trainer.strategy=fsdp2"], marks=pytest.mark.distributed, id="fsdp2"),
    ],
)
def test_a_file_that_can_not_be_written_ends_the_run(short, run_script, tmp_path, rank, extra):
    """All ranks of it, also if it is one of them that can't."""
    script = tmp_path / "full.py"
    script.write_text(FULL)
    done = run_script(script, str(rank), *short, "--trainer.accelerator=cpu", *extra)
    folder = tmp_path / "run" / "checkpoints"
    assert done.returncode != 0
    # Between ranks PyTorch passes on the text of an error alone.
    reason = "no space left, or another error of the file system: .*" if extra else "File too large"
    message = rf"error: {folder}/step_000004.ckpt can't be written \({reason}\): the newest whole checkpoint is"
    assert re.search(rf"{message} {folder}/step_000002.ckpt", done.stderr), done.stderr[-2000:]
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "scores.json", "step_000002.ckpt"]
    assert find_fault(folder / "step_000002.ckpt") is None


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for one checkpoint (3 MB each) and the rest of a run, but not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(short, run_script, small_disk):
    arguments = [*short, f"--output_dir={small_disk}", "--ckpt_path=auto"]
    done = run_script(ROOT / "train.py", *arguments)
    folder = small_disk / "run" / "checkpoints"
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = f"error: {folder}/step_000004.ckpt can't be written (No space left on device): the newest whole checkpoint is"
    assert f"{message} {folder}/step_000002.ckpt" in done.stderr, done.stderr[-2000:]
    assert list(list_checkpoints(folder)) == [2] and not list(folder.glob("*.part*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert train.main(arguments)["steps"] == 6
    assert sorted(list_checkpoints(folder))[-2:] == [4, 6]  # and the best


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sharded_run_goes_on_from_the_newest_whole_one(short, run_script, tmp_path):
    """Also on one rank without shards."""
    arguments = [*short, "--trainer.accelerator=cpu", "--trainer.limit_val_batches=0", "--checkpoint.every_n_steps=1"]
    sharded = ["--trainer.devices=2", "--trainer.strategy=fsdp2", "--trainer.max_steps=2"]
    done = run_script(ROOT / "train.py", *arguments, *sharded)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "run" / "checkpoints"
    paths = list_checkpoints(folder)
    assert list(paths) == [1, 2]
    part = paths[2] / "__1_0.distcp"
    os.truncate(part, part.stat().st_size // 2)
    again = run_script(ROOT / "train.py", *arguments, *sharded, "--ckpt_path=last")
    assert again.returncode == 0, again.stderr[-2000:]
    assert re.search(r"step_000002.ckpt is damaged \(__1_0.distcp has \d+ bytes of \d+ or more\)", again.stderr)
    assert find_fault(list_checkpoints(folder)[2]) is None and (folder / "step_000002.ckpt.damaged").is_dir()
    assert train.main([*arguments, "--trainer.max_steps=3", "--ckpt_path=last"])["steps"] == 3


def test_written_meanwhile_is_the_same(learning, scripted, tmp_path):
    """Training goes on and changes the weights while the copy of before is written."""
    files = []
    for name, asynchronous in (("now", False), ("meanwhile", True)):
        extra = ["--checkpoint.every_n_steps=1", f"--checkpoint.asynchronous={asynchronous}", "--checkpoint.keep_last=6"]
        train.main([*learning, *extra, "--trainer.max_steps=3", f"--name={name}"])
        files.append(list_checkpoints(tmp_path / name / "checkpoints"))
    assert list(files[0]) == list(files[1]) == [1, 2, 3]
    for step in files[0]:
        assert_equal(*(read_all(paths[step]) for paths in files))
    links = [(tmp_path / name / "checkpoints" / "best.ckpt").resolve().name for name in ("now", "meanwhile")]
    assert links[0] == links[1]


def fail_in_the_second(write, error):
    def fail(path, tensors, group):
        if "000002" in path.name:
            (path / "some").write_bytes(b"some")
            raise error
        return write(path, tensors, group)

    return fail


@pytest.mark.parametrize(
    ("error", "asynchronous"),
    [(OSError(28, "No space left on device"), False), (RuntimeError("inline_container.cc: unexpected"), True)],
)
def test_what_goes_wrong_in_a_save_stops_the_run(learning, scripted, tmp_path, monkeypatch, error, asynchronous):
    failing = fail_in_the_second(write, error)
    monkeypatch.setattr("taro.run.checkpoints.write", failing)
    monkeypatch.setattr("taro.run.checkpoints.write_meanwhile", partial(ThreadPoolExecutor(1).submit, failing))
    extra = ["--checkpoint.every_n_steps=1", f"--checkpoint.asynchronous={asynchronous}"]
    message = r"step_000002.ckpt can't be written \(.*newest whole checkpoint is .*step_000001.ckpt"
    with pytest.raises(CheckpointError, match=message):
        train.main([*learning, *extra])
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if "step" in path.name)
    assert left == ["step_000001.ckpt"]


class Keeps(L.Callback):
    """What Lightning's EarlyStopping has: a tensor; or what JSON can't hold."""

    def __init__(self, kept):
        self.kept = kept

    def state_dict(self):
        return {"best": self.kept}

    def load_state_dict(self, state):
        self.kept = state["best"]


def test_what_callbacks_keep(fit, learning, scripted):
    fit([*learning, "--trainer.max_steps=1"], Keeps(torch.tensor(0.5)))
    again = Keeps(torch.tensor(0.0))
    fit([*learning, "--ckpt_path=last", "--trainer.max_steps=2"], again)
    assert torch.equal(again.kept, torch.tensor(0.5))
    with pytest.raises(CheckpointError, match=r"can't be written \(TypeError a callback keeps a set, which JSON does not have"):
        fit([*learning, "--name=other", "--trainer.max_steps=1"], Keeps({1}))
