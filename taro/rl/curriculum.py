"""From constructed paths to free exploration."""

from __future__ import annotations

from typing import Literal

import lightning as L

from taro.progress import steps_done
from taro.ranges import FiniteNonNegativeFloat


class CurriculumCallback(L.Callback):
    """Tells the datamodule with which probability a completion starts with a constructed path.

    Args:
        warmup_epochs: epochs with constructed paths, or a part of one; free exploration follows. 0: none.
        schedule: `epochs`: 1 during the warm-up, 0 after it (the released scripts). `linear`: falls from 1 to 0 over the
            steps of the warm-up, max(0, 1 - step / steps).
    """

    def __init__(self, warmup_epochs: FiniteNonNegativeFloat = 1, schedule: Literal["epochs", "linear"] = "epochs") -> None:
        self.warmup_epochs, self.schedule = warmup_epochs, schedule

    def probability(self, step: int, steps_per_epoch: int) -> float:
        """Of a constructed path, in the step number `step` of the run (from 0)."""
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        if self.schedule == "linear":
            return max(0.0, 1.0 - step / warmup_steps) if warmup_steps else 0.0
        return 1.0 if step < warmup_steps else 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._set(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch, batch_idx: int) -> None:
        # The next batch's paths are drawn before its on_train_batch_start.
        self._set(trainer)

    def _set(self, trainer: L.Trainer) -> None:
        steps_per_epoch = int(trainer.num_training_batches)
        trainer.datamodule.constructed_probability = self.probability(steps_done(trainer), steps_per_epoch)
