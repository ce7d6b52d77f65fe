"""How far a run is, how far it goes, and how that is shown: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import track

from taro.ranges import NonNegativeInt

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 30.0  # of work that comes in samples
SHOWN = {"reward": "reward", "rollout/IoU": "IoU"}  # of a training step: logged name, and name in its line
SHOWN_ALONE = {"loss": "loss"}  # where there are no rewards
STEPS_AVERAGED = 10  # for the time that is left


def on_terminal() -> bool:
    return sys.stdout.isatty()


def steps_done(trainer: L.Trainer) -> int:
    """Training steps that are over, of the whole run: also after a resume, and after one from the middle of an epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Args:
        steps_per_epoch: training steps of an epoch.
        max_epochs: `trainer.max_epochs`; None or -1 is no limit.
        max_steps: `trainer.max_steps`, which counts updates of the weights; -1 is no limit.
        updates: of each step.
    """

    steps_per_epoch: int
    max_epochs: int | None
    max_steps: int
    updates: int = 1

    @classmethod
    def of(cls, trainer: L.Trainer, data: L.LightningDataModule, module: L.LightningModule) -> Plan:
        """Known as soon as the samples are read."""
        steps_per_epoch = len(data.samples["train"]) // data.prompts_per_step
        return cls(steps_per_epoch, trainer.max_epochs, trainer.max_steps, module.loss.updates)

    @property
    def steps_by_epochs(self) -> float:
        """Infinite where `max_epochs` is no limit."""
        return math.inf if self.max_epochs in (None, -1) else self.max_epochs * self.steps_per_epoch

    @property
    def steps(self) -> float:
        """Of the whole run; infinite where nothing limits them."""
        return min(self.steps_by_epochs, math.inf if self.max_steps == -1 else math.ceil(self.max_steps / self.updates))

    def total(self, step: int, optimizer_steps: int) -> float:
        """Steps of the whole run, after so many of them and so many updates: the updates of a step that was skipped are made by
        another one."""
        by_updates = math.inf if self.max_steps == -1 else step + math.ceil((self.max_steps - optimizer_steps) / self.updates)
        return min(self.steps_by_epochs, by_updates)

    def is_over(self, step: int, optimizer_steps: int) -> bool:
        """After so many steps and so many updates: of a step that was skipped there is none."""
        return step >= self.steps_by_epochs or -1 < self.max_steps <= optimizer_steps


def left(seconds: float, done: int, total: float) -> str:
    """`, 0:04:41 left`, at so many seconds for each of them; "" where there is no end."""
    return "" if math.isinf(total) else f", {timedelta(seconds=round(seconds * (total - done)))} left"


def track_items(
    items: Iterable[Item],
    name: str,
    total: int,
    has_failed: Callable[[Item], bool],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """The same items. In a terminal there is a bar meanwhile, elsewhere a line now and then and one at the end:
    `Charades: 128 of 3720, 3 failed, 0:12:05 left`."""
    if on_terminal():
        yield from track(items, name, total, transient=True)
        return
    started = shown = clock()
    failed = 0
    for done, item in enumerate(items, start=1):
        failed += has_failed(item)
        now = clock()
        if done == total or now - shown >= SECONDS_BETWEEN_LINES:
            print(f"{name}: {done} of {total}, {failed} failed{left((now - started) / done, done, total)}", flush=True)
            shown = now
        yield item


class ProgressLines(L.Callback):
    """A line for each training step and each evaluation where there is no terminal that could show a bar; rank 0 alone.

        step 3 of 120: reward 1.250, IoU 0.412, 2.4 s a step, 0:04:41 left
        validation after step 20: mIoU 0.412, R1@0.3 0.600

    Args:
        every_n_steps: a line for each so many training steps; 0: none.
    """

    def __init__(self, every_n_steps: NonNegativeInt = 1) -> None:
        self.every_n_steps = every_n_steps
        self.plan = Plan(0, None, -1)
        self.started = self.shown = 0.0  # of a step, or an evaluation; and when a line of the latter was shown last
        self.seconds = 0.0  # that a step takes, lately

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.plan = Plan.of(trainer, trainer.datamodule, module)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        seconds = time.monotonic() - self.started
        self.seconds += (seconds - self.seconds) / STEPS_AVERAGED if self.seconds else seconds
        step = steps_done(trainer)
        total = self.plan.total(step, trainer.global_step)
        if self.every_n_steps and (step % self.every_n_steps == 0 or step == total):
            of = "" if math.isinf(total) else f" of {total:.0f}"
            values = trainer.callback_metrics
            shown = SHOWN if "reward" in values else SHOWN_ALONE
            parts = [f"{name} {values[logged]:.3f}, " for logged, name in shown.items() if logged in values]
            line = f"step {step}{of}: {''.join(parts)}{self.seconds:.1f} s a step{left(self.seconds, step, total)}"
            self._show(trainer, line)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.started = self.shown = time.monotonic()

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A line now and then while it takes long."""
        now, done = time.monotonic(), batch_idx + 1
        total = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        if done < total and now - self.shown >= SECONDS_BETWEEN_LINES:
            name = "test" if trainer.testing else "validation"
            self._show(trainer, f"{name}: batch {done} of {total}{left((now - self.started) / done, done, total)}")
            self.shown = now

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._show(trainer, f"validation after step {steps_done(trainer)}: {_scores(trainer, 'vtg/')}")

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._show(trainer, f"test after step {steps_done(trainer)}: {_scores(trainer, 'test/')}")

    def _show(self, trainer: L.Trainer, line: str) -> None:
        if self.every_n_steps > 0 and trainer.is_global_zero and not on_terminal():
            print(line, flush=True)


def _scores(trainer: L.Trainer, prefix: str) -> str:
    """Of tasks, where there are several, the mIoU alone."""
    values = {name.removeprefix(prefix): value for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    shown = (name for name in values if "/" not in name or name.endswith("/mIoU"))
    return ", ".join(f"{name} {values[name]:.3f}" for name in shown)


class ProgressBar(RichProgressBar):
    """Lightning's, which after a resume is there from the start, with the steps of its epoch that are over. There is none where
    there is no terminal."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not on_terminal():
            self.disable()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        steps = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        if self.is_enabled and trainer.fit_loop.restarted_mid_epoch:
            self._initialize_train_progress_bar_id()
            self._update(self.train_progress_bar_id, steps)
