"""How far a run is."""

from __future__ import annotations

import lightning as L


def steps_done(trainer: L.Trainer) -> int:
    """Training steps that are over, of the whole run: also after a resume, and after one from the middle of an epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed
