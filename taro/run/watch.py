"""Warns where training goes on without learning anything."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn


class SignalWatch(L.Callback):
    """A step whose groups all have equal rewards teaches nothing: many in a row are a mistake, or all there was to learn.

    Args:
        patience: such steps in a row before each warning.
    """

    def __init__(self, patience: int = 10) -> None:
        self.patience, self.silent = patience, 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.silent = self.silent + 1 if metrics.get("frac_reward_zero_std", 1.0) == 1.0 else 0
        if self.silent and self.silent % self.patience == 0:
            rewards = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items() if name.startswith("rewards/"))
            rank_zero_warn(
                f"in the last {self.silent} steps all completions of each group got the same reward: nothing was learned. "
                f"Now {rewards}; completions/clipped_ratio {metrics.get('completions/clipped_ratio', float('nan')):.2f}, "
                f"data/failed {metrics.get('data/failed', float('nan')):.0f}. Read the last rollouts: are answers cut off "
                "(model.sampling.max_tokens), in another format than the prompt asks for (data.grounding.prompt), all right "
                "or all wrong (choose samples by difficulty), or all alike (model.sampling.temperature)?"
            )
