"""Writes each step's completions, and what could not be read or used, into the run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch

from taro.data.examples import GroundingExample
from taro.progress import steps_done
from taro.rl.group_loss import TrainingGroup


class RunRecords(L.Callback):
    """`rollouts/step_*.jsonl` with a line for each completion and its rewards; `failed.jsonl` with a line for each sample
    that gave no prompt; `replaced/step_*.jsonl` with a line for each completion of groups in whose place dynamic sampling has
    drawn others; `skipped/step_*.pt` with the groups of each update whose gradient was not finite.

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
            name = f"step_{step:06d}{rank}.jsonl"
            _write(self.folder / "rollouts" / name, outputs["rollouts"], "w")
            if outputs["replaced"]:
                _write(self.folder / "replaced" / name, outputs["replaced"], "w")
        self._write_failed(outputs["failed"], step)
        if outputs["skipped"]:
            path = self.folder / "skipped" / f"step_{step:06d}_rank{trainer.global_rank}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(describe_groups(outputs["skipped"]), path)

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


def describe_groups(groups: Sequence[TrainingGroup]) -> list[dict[str, Any]]:
    """All that a group's loss was made of, as `torch.load` reads it without our code; log-probs (G, C)."""
    return [
        {
            "sample": asdict(one.group.example.sample),
            "seeds": one.group.example.seeds,
            "prefixes": one.group.example.prefixes,
            "shuffle_seed": one.group.example.shuffle_seed,
            "completions": [completion.cpu() for completion in one.group.rollout.completions],
            "texts": one.group.texts,
            "rewards": one.rewards.by_name,
            "temporal_gaps": one.rewards.gaps,
            "advantages": one.rewards.advantages,
            "rollout_log_probs": one.group.rollout_log_probs.cpu(),
            "log_probs": one.old_log_probs.cpu(),
            "ref_log_probs": None if one.ref_log_probs is None else one.ref_log_probs.cpu(),
        }
        for one in groups
    ]


def _write(path: Path, rows: list[dict[str, Any]], mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
