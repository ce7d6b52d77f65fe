"""How far a run is, and how far it goes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


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
    def of(cls, trainer: L.Trainer, samples: int, prompts_per_step: int, updates: int) -> Plan:
        """Known before anything is loaded."""
        steps, limit = samples // prompts_per_step, trainer.limit_train_batches
        steps = min(steps, limit) if isinstance(limit, int) else int(steps * limit)
        return cls(steps, trainer.max_epochs, trainer.max_steps, updates)

    @property
    def steps_by_epochs(self) -> float:
        """Infinite where `max_epochs` is no limit."""
        return math.inf if self.max_epochs in (None, -1) else self.max_epochs * self.steps_per_epoch

    @property
    def steps(self) -> float:
        """Of the whole run; infinite where nothing limits them."""
        return min(self.steps_by_epochs, math.inf if self.max_steps == -1 else math.ceil(self.max_steps / self.updates))

    def is_over(self, step: int, optimizer_steps: int) -> bool:
        """After so many steps and so many updates: of a step that was skipped there is none."""
        return step >= self.steps_by_epochs or -1 < self.max_steps <= optimizer_steps


class ProgressBar(RichProgressBar):
    """Lightning's, which after a resume is there from the start, with the steps of its epoch that are over."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        steps = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if self.is_enabled and trainer.fit_loop.restarted_mid_epoch:
            self._initialize_train_progress_bar_id()
            self._update(self.train_progress_bar_id, steps)
