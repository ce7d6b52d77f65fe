"""Writes each step's completions, and what could not be read, into the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L

from taro.data.examples import GroundingExample
from taro.progress import steps_done


class RunRecords(L.Callback):
    """`rollouts/step_*.jsonl` with a line for each completion and its rewards; `failed.jsonl` with a line for each sample
    that gave no prompt.

    Args:
        folder: the run's.
        every: write the rollouts of every so many steps; 0 writes none.
    """

    def __init__(self, folder: str | Path, every: int = 1) -> None:
        self.folder, self.every = Path(folder), every

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        step = steps_done(trainer)
        if self.every and step % self.every == 0:
            rank = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
            _write(self.folder / "rollouts" / f"step_{step:06d}{rank}.jsonl", outputs["rollouts"], "w")
        self._write_failed(outputs["failed"], step)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._write_failed(batch, "validation")

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._write_failed(batch, "test")

    def _write_failed(self, batch: list[GroundingExample], when: int | str) -> None:
        """`when`: the training step, or which evaluation."""
        failed = [
            {"step": when, "id": example.sample.id, "video": example.sample.video, "reason": example.failure}
            for example in batch
            if example.failure is not None
        ]
        if failed:
            _write(self.folder / "failed.jsonl", failed, "a")


def _write(path: Path, rows: list[dict[str, Any]], mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
