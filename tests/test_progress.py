import math
from types import SimpleNamespace

import lightning as L
import pytest

from taro import progress
from taro.progress import Plan, duration, items_line, scores_line, step_line, track_items

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
    plan = Plan.of(trainer, samples=7, prompts_per_step=2, updates=updates)
    assert plan.steps == steps
    if steps != math.inf:
        assert plan.is_over(steps, steps * updates)
        assert steps == 0 or not plan.is_over(steps - 1, (steps - 1) * updates)


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


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_the_bar_goes_on_where_it_was(fit, arguments, scripted, stop, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    arguments = [*arguments, *LEARNING]
    fit([*arguments, f"--trainer.max_steps={stop}"])
    shown = Shown()
    fit([*arguments, "--ckpt_path=last", "--progress_bar.refresh_rate=1"], shown)
    ends = [("Epoch 0/1", 1, 3), ("Epoch 0/1", 2, 3), ("Epoch 0/1", 3, 3), ("Epoch 1/1", 1, 3), ("Epoch 1/1", 2, 3)]
    assert shown.ends == [*ends, ("Epoch 1/1", 3, 3)][stop:]
    assert shown.starts[0] == (f"Epoch {stop // 3}/1", stop % 3, 3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (245, "4 min 05 s"), (7265, "2 h 01 min"), (9e4, "1 day 1 h"), (2e5, "2 days 7 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_line_of_a_step():
    values = {"loss": 0.1, "rollout/IoU": 0.4116, "reward": 1.25, "kl": 0.0}
    assert step_line(3, 120, values, 2.4) == "step 3 of 120: reward 1.250, IoU 0.412, 2.4 s a step, 4 min 41 s left"
    assert step_line(3, math.inf, {}, 2.4) == "step 3: 2.4 s a step"  # nothing was learned from, and nothing limits it


def test_the_line_of_scores():
    line = scores_line("validation after step 20", {"vtg/mIoU": 0.4123, "vtg/R1@0.5": 0.25})
    assert line == "validation after step 20: mIoU 0.412, R1@0.5 0.250"


def test_the_line_of_items():
    assert items_line("Charades", 30, 120, 3, 60.0) == "Charades: 30 of 120, 3 failed, 3 min 00 s left"
    assert items_line("Charades", 0, 120, 0, 60.0) == "Charades: 0 of 120, 0 failed"


def test_lines_of_items_come_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    times = iter([0, 10, 29, 31, 40, 50])  # the start, then each item
    found = list(track_items(range(5), "captions", 5, lambda item: item in (1, 4), clock=lambda: next(times)))
    assert found == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out.splitlines() == [
        "captions: 3 of 5, 1 failed, 21 s left",
        "captions: 5 of 5, 2 failed, 0 s left",
    ]


@pytest.mark.parametrize(("every", "steps"), [(4, [4, 6]), (0, [])])
def test_lines_of_a_run_in_a_log_file(fit, arguments, scripted, capsys, every, steps):
    """The last step always has one."""
    fit([*arguments, *LEARNING, f"--progress_lines.every_n_steps={every}", "--trainer.val_check_interval=3"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("step", "validation"))]
    shown = [line for line in lines if line.startswith("step")]
    assert [int(line.split()[1]) for line in shown] == steps
    assert all(" of 6: reward " in line and ", IoU " in line and " left" in line for line in shown)
    validations = [line.partition(": mIoU ")[0] for line in lines if line not in shown]
    assert validations == (["validation after step 3", "validation after step 6"] if every else [])


def test_no_lines_in_a_terminal(fit, arguments, scripted, capsys, monkeypatch):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    fit([*arguments, *LEARNING, "--trainer.max_steps=1"])
    assert "step 1 of" not in capsys.readouterr().out
