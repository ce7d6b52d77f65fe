import math
import re
from types import SimpleNamespace

import lightning as L
import pytest

from taro import progress
from taro.progress import Plan, track_items

LEARNING = ["--model.optimizer.learning_rate=1e-3", "--model.temporal_reward=null", "--model.group_size=2"]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "updates", "steps"),
    [
        (2, -1, 1, 6),
        (2, 5, 1, 5),
        (2, 9, 1, 6),
        (None, 9, 1, 9),
        (-1, 9, 2, 5),  # the fifth step is over with its tenth update
        (-1, -1, 1, math.inf),
        (0, -1, 1, 0),
    ],
)
def test_how_many_steps_a_run_has(epochs, max_steps, updates, steps):
    trainer = SimpleNamespace(max_epochs=epochs, max_steps=max_steps)
    data = SimpleNamespace(samples={"train": range(7)}, prompts_per_step=2)
    plan = Plan.of(trainer, data, SimpleNamespace(loss=SimpleNamespace(updates=updates)))
    assert plan.steps == steps
    assert plan.total(0, 0) == steps
    if steps != math.inf:
        assert plan.is_over(steps, steps * updates)
        assert steps == 0 or not plan.is_over(steps - 1, (steps - 1) * updates)


def test_a_skipped_update_is_made_by_another_step():
    plan = Plan(100, None, max_steps=5)
    assert [plan.total(step, updates) for step, updates in ((1, 1), (2, 1), (6, 5))] == [5, 6, 6]
    assert Plan(3, 2, max_steps=5).total(4, 2) == 6  # the epochs are over first
    assert Plan(100, None, 10, updates=4).total(1, 3) == 3


def test_it_is_over_where_lightning_stops(fit, arguments, scripted):
    """Also with several updates a step, which `max_steps` counts."""
    extra = ["--model.loss.updates=2", "--trainer.max_epochs=-1", "--trainer.max_steps=7"]
    cli = fit([*arguments, *LEARNING, *extra])
    assert cli.plan.steps == 4 == cli.trainer.fit_loop.epoch_loop.batch_progress.total.processed
    assert cli.plan.is_over(4, cli.trainer.global_step) and not cli.plan.is_over(3, 6)


class Shown(L.Callback):
    """What the bar shows when a batch starts, and when it is over."""

    def __init__(self):
        self.starts, self.ends = [], []

    def on_train_batch_start(self, trainer, *args):
        self.starts.append(self.look(trainer))

    def on_train_batch_end(self, trainer, *args):
        self.ends.append(self.look(trainer))

    def look(self, trainer):
        bar = trainer.progress_bar_callback
        if bar.train_progress_bar_id is None:
            return None
        task = bar.progress.tasks[bar.train_progress_bar_id]
        return task.description.strip(), int(task.completed), int(task.total)


@pytest.mark.parametrize("stop", [2, 3])
def test_the_bar_goes_on_where_it_was(fit, arguments, scripted, stop, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    arguments = [*arguments, *LEARNING, "--trainer.limit_val_batches=1.0"]
    fit([*arguments, f"--trainer.max_steps={stop}"])
    shown = Shown()
    fit([*arguments, "--ckpt_path=last", "--progress_bar.refresh_rate=1"], shown)
    ends = [("Epoch 0/1", 1, 3), ("Epoch 0/1", 2, 3), ("Epoch 0/1", 3, 3), ("Epoch 1/1", 1, 3), ("Epoch 1/1", 2, 3)]
    assert shown.ends == [*ends, ("Epoch 1/1", 3, 3)][stop:]
    assert shown.starts[0] == (f"Epoch {stop // 3}/1", stop % 3, 3)


def test_lines_of_items_come_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    times = iter([0, 10, 29, 31, 40, 50])  # the start, then each item
    found = list(track_items(range(5), "captions", 5, lambda item: item in (1, 4), clock=lambda: next(times)))
    assert found == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out.splitlines() == [
        "captions: 3 of 5, 1 failed, 0:00:21 left",
        "captions: 5 of 5, 2 failed, 0:00:00 left",
    ]


def test_lines_of_a_run_in_a_log_file(fit, arguments, scripted, capsys):
    """The last step always has one."""
    validated = ["--trainer.limit_val_batches=1.0", "--trainer.val_check_interval=3"]
    fit([*arguments, *LEARNING, *validated, "--progress_lines.every_n_steps=4"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("step", "validation"))]
    shown = [line for line in lines if line.startswith("step")]
    number = r"\d+\.\d{3}"
    for step, line in zip((4, 6), shown, strict=True):
        assert re.fullmatch(rf"step {step} of 6: reward {number}, IoU {number}, \d+\.\d s a step, 0:\d\d:\d\d left", line), line
    validations = [line for line in lines if line not in shown]
    for step, line in zip((3, 6), validations, strict=True):
        assert re.match(rf"validation after step {step}: mIoU {number}, R1@0.3 {number}, ", line), line


def test_lines_of_a_validation_that_takes_long(fit, arguments, scripted, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    one = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.evaluation_batch=1"]
    fit([*arguments, *LEARNING, *one, "--trainer.limit_val_batches=1.0"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("validation")]
    count = len(lines)  # of batches: the last one has the scores
    for batch, line in enumerate(lines[:-1], start=1):
        assert re.fullmatch(rf"validation: batch {batch} of {count}, 0:\d\d:\d\d left", line), line
    assert count >= 2 and lines[-1].startswith("validation after step 1: mIoU")


@pytest.mark.parametrize(("setting", "terminal"), [("--progress_lines.every_n_steps=0", False), ("--name=run", True)])
def test_no_lines(fit, arguments, scripted, capsys, monkeypatch, setting, terminal):
    monkeypatch.setattr(progress, "on_terminal", lambda: terminal)
    fit([*arguments, *LEARNING, "--trainer.limit_val_batches=1.0", "--trainer.max_steps=2", setting])
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith(("step", "validation"))]
