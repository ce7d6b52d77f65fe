"""The checkpoint that a run is gone on with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from taro.progress import steps_done
from taro.rl.module import GRPOModule


class LastCheckpoint(L.Callback):
    """`last.ckpt` at each validation, at the end, and where training is cut short (an error, Ctrl-C, SIGTERM).

    Lightning's own `save_last` is written only when the best checkpoint is.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder, "last.ckpt")
        self.saved_step: int | None = None

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, module: GRPOModule, exception: BaseException) -> None:
        # In the middle of an update the weights belong to no step: the checkpoint from before is the one to go on from.
        if module.updated_step <= steps_done(trainer):
            self._save(trainer, alone=trainer.world_size > 1)

    def _save(self, trainer: L.Trainer, alone: bool = False) -> None:
        """`alone`: other ranks don't save with this one, which must not wait for them."""
        step = steps_done(trainer)
        if trainer.state.fn != TrainerFn.FITTING or not trainer.optimizers or step == self.saved_step:
            return
        if alone:
            part = self.path.with_name(f"{self.path.name}.rank{trainer.global_rank}")
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, part)
            os.replace(part, self.path)
        else:
            trainer.save_checkpoint(self.path, weights_only=False)
        self.saved_step = step

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """An epoch that `max_steps` cut off is gone on with: Lightning counts it as over."""
        loop = checkpoint["loops"]["fit_loop"]
        if loop["epoch_loop.batch_progress"]["current"]["processed"] < trainer.num_training_batches:
            for count in loop["epoch_progress"].values():
                count["processed"] = count["completed"] = count["ready"] - 1
