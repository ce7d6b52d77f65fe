"""Lightning's training loop, begun after the steps that are over.

Lightning has no public way to begin at step N but a checkpoint of its own. `start_after` gives its loop the counters of such a
checkpoint, written right after a batch; only here are their names known, and what the loop does with them.
"""

from __future__ import annotations

from typing import Any

import lightning as L


def start_after(trainer: L.Trainer, step: int, optimizer_steps: int, steps_per_epoch: int) -> None:
    """Begin with the batch after `step` of them. Called before the loop runs; it will not call `on_train_epoch_start` for the
    epoch that it begins in.

    Args:
        optimizer_steps: updates of the weights so far, which `trainer.global_step` counts.
    """
    epoch, in_epoch = divmod(step, steps_per_epoch)
    # The loop takes the last batch for completed, and counts its step of the log, as soon as it runs.
    batches = _counts(step, step - 1) | {"current": _counts(in_epoch, in_epoch - 1)["current"], "is_last_batch": False}
    epochs = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    trainer.fit_loop.load_state_dict({
        "epoch_progress": {"total": epochs, "current": epochs},
        "epoch_loop.batch_progress": batches,
        "epoch_loop.state_dict": {"_batches_that_stepped": step - 1},
        "epoch_loop.manual_optimization.optim_step_progress": {
            name: {"ready": optimizer_steps, "completed": optimizer_steps} for name in ("total", "current")
        },
    })  # fmt: skip


def _counts(processed: int, completed: int) -> dict[str, Any]:
    counts = {"ready": processed, "started": processed, "processed": processed, "completed": completed}
    return {"total": counts, "current": counts}


def validate_now(trainer: L.Trainer) -> None:
    """The loop's own validation. In `on_train_start`, its step of the log is that of the last batch."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def validation_is_next(trainer: L.Trainer) -> bool:
    """After the step that is over, unless the next one has begun."""
    loop = trainer.fit_loop.epoch_loop
    begun = loop.batch_progress.total.ready > loop.batch_progress.total.processed
    return not begun and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
