import math
from types import SimpleNamespace

import lightning as L
import pytest

from taro.progress import Plan

LEARNING = ["--model.optimizer.learning_rate=1e-3", "--model.temporal_reward=null", "--model.group_size=2"]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "updates", "limit", "steps"),
    [
        (2, -1, 1, 1.0, 6),
        (2, 5, 1, 1.0, 5),
        (2, 9, 1, 1.0, 6),
        (None, 9, 1, 1.0, 9),
        (-1, 9, 2, 1.0, 5),  # the fifth step is over with its tenth update
        (-1, -1, 1, 1.0, math.inf),
        (2, -1, 1, 2, 4),
        (2, -1, 1, 0.7, 4),
        (0, -1, 1, 1.0, 0),
    ],
)
def test_how_many_steps_a_run_has(epochs, max_steps, updates, limit, steps):
    trainer = SimpleNamespace(max_epochs=epochs, max_steps=max_steps, limit_train_batches=limit)
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
def test_the_bar_goes_on_where_it_was(fit, arguments, scripted, stop):
    arguments = [*arguments, *LEARNING]
    fit([*arguments, f"--trainer.max_steps={stop}"])
    shown = Shown()
    fit([*arguments, "--ckpt_path=last", "--progress_bar.refresh_rate=1"], shown)
    ends = [("Epoch 0/1", 1, 3), ("Epoch 0/1", 2, 3), ("Epoch 0/1", 3, 3), ("Epoch 1/1", 1, 3), ("Epoch 1/1", 2, 3)]
    assert shown.ends == [*ends, ("Epoch 1/1", 3, 3)][stop:]
    assert shown.starts[0] == (f"Epoch {stop // 3}/1", stop % 3, 3)
