"""Ends a run that trains on too small a part of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from taro.ranks import gather

LISTED = 20


class TooManyFailures(RuntimeError):
    """Raised by all ranks together, after a whole step."""


class FailureLimit(L.Callback):
    """A sample without a prompt, as of a broken video, costs its group; too many of them end the run.

    Args:
        folder: of the run, which has the list in failed.jsonl.
        largest_share: the share of the training samples so far, 0 to 1, that may fail; 1 never ends a run.
        at_least: training samples before the share counts.
    """

    def __init__(self, folder: str | Path, largest_share: float = 0.2, at_least: int = 100) -> None:
        if not 0 <= largest_share <= 1:
            raise ValueError(f"failure_limit.largest_share = {largest_share}, needs 0 to 1")
        if at_least < 1:
            raise ValueError(f"failure_limit.at_least = {at_least}, needs 1 or more")
        self.folder, self.largest_share, self.at_least = Path(folder), largest_share, at_least
        self.seen = 0  # training samples of all ranks, each time that they came
        self.failed = 0
        self.first: list[str] = []  # lines about the first LISTED failures

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: dict[str, Any], batch: list[Any], batch_idx: int
    ) -> None:
        lines = [f"{example.sample.id}: {example.failure}" for example in outputs["failed"]]
        before = self.failed
        for seen, failed, first in gather((len(batch), len(lines), lines[:LISTED])):
            self.seen += seen
            self.failed += failed
            self.first = [*self.first, *first][:LISTED]
        # Where nothing fails any more, as when a run goes on with its videos mended, it is let go on.
        if self.failed > before and self.seen >= self.at_least and self.failed > self.largest_share * self.seen:
            raise TooManyFailures(self.describe())

    def describe(self) -> str:
        """What failed, and what to do about it."""
        more = [f"and {self.failed - len(self.first)} more"] if self.failed > len(self.first) else []
        share = f"{self.failed} of {self.seen} training samples so far gave no prompt, more than {self.largest_share:.0%}:"
        advice = (
            f"All are in {self.folder / 'failed.jsonl'}. Mend them or take them out of data.train_file, or raise "
            "failure_limit.largest_share."
        )
        return "\n".join(["\n- ".join([share, *self.first, *more]), advice])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "failed": self.failed, "first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.failed, self.first = state_dict["seen"], state_dict["failed"], state_dict["first"]
