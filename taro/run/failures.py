"""Ends a run that trains, or chooses its checkpoint, on too small a part of its data, and warns of one that learns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from taro.data.examples import GroundingExample
from taro.distributed import gather
from taro.errors import TaroError
from taro.messages import LINES_SHOWN
from taro.progress import Plan
from taro.ranges import PositiveInt, Share


class TooManyFailures(TaroError):
    """Raised by all ranks together, after a whole step."""


@dataclass
class Failures:
    """Of all ranks."""

    seen: int = 0  # samples, each time that they came
    failed: int = 0
    first: list[str] = field(default_factory=list)  # lines about the first LINES_SHOWN

    def add(self, count: int, examples: Sequence[GroundingExample]) -> None:
        """Called by all ranks, each with the number of its samples, and those of them that may have failed."""
        lines = [f"{example.sample.id}: {example.failure}" for example in examples if example.failure is not None]
        for seen, failed, first in gather((count, len(lines), lines[:LINES_SHOWN])):
            self.seen += seen
            self.failed += failed
            self.first = [*self.first, *first][:LINES_SHOWN]


class FailureLimit(L.Callback):
    """A sample without a prompt, as of a broken video, costs its group; too many of them end the run. So do too many in a
    validation, which would score next to nothing.

    Args:
        folder: of the run, which has the list in failed.jsonl.
        largest_share: the share of the training samples so far, 0 to 1, that may fail, those that dynamic sampling has drawn
            included, and of each validation's; 1 never ends a run.
        at_least: training samples before the share counts: fewer where there are fewer in the file, or in the run.
    """

    def __init__(self, folder: str | Path, largest_share: Share = 0.2, at_least: PositiveInt = 100) -> None:
        self.folder, self.largest_share, self.at_least = Path(folder), largest_share, at_least
        self.enough = at_least
        self.training, self.validation = Failures(), Failures()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        plan = Plan.of(trainer, trainer.datamodule, module)
        # An epoch leaves out what fills no step.
        self.enough = min(self.at_least, min(plan.steps_per_epoch, plan.steps) * trainer.datamodule.prompts_per_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: dict[str, Any], batch: list[Any], batch_idx: int
    ) -> None:
        before = self.training.failed
        self.training.add(outputs["prompts"], outputs["failed"])
        # Where nothing fails any more, as when a run goes on with its videos mended, it is let go on.
        if self.training.failed > before and self.training.seen >= self.enough:
            self._refuse(self.training, "training samples so far", "data.train_file")

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.validation = Failures()

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: list[Any], batch_idx: int, *args: Any
    ) -> None:
        self.validation.add(len(batch), batch)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before its score is taken down, so that a run that goes on begins with it."""
        self._refuse(self.validation, "validation samples", "data.validation_file")

    def _refuse(self, failures: Failures, samples: str, file: str) -> None:
        seen, failed, first = failures.seen, failures.failed, failures.first
        if failed > self.largest_share * seen:
            more = [f"and {failed - len(first)} more"] if failed > len(first) else []
            head = f"{failed} of {seen} {samples} gave no prompt, more than {self.largest_share:.0%}:"
            advice = f"Mend them or take them out of {file}, or raise failure_limit.largest_share."
            listed = "\n- ".join([head, *first, *more])
            raise TooManyFailures(f"{listed}\nAll are in {self.folder / 'failed.jsonl'}. {advice}")

    def state_dict(self) -> dict[str, Any]:
        return vars(self.training).copy()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.training = Failures(**state_dict)


class SignalWatch(L.Callback):
    """A group with equal rewards teaches nothing: steps with hardly any other are a mistake, or all there was to learn.

    Args:
        patience: such steps in a row before each warning.
    """

    LARGEST_SHARE = 0.75  # of a step's groups

    def __init__(self, patience: int = 10) -> None:
        self.patience, self.silent = patience, 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.silent = self.silent + 1 if metrics.get("frac_reward_zero_std", 1.0) >= self.LARGEST_SHARE else 0
        if self.silent and self.silent % self.patience == 0:
            rewards = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items() if name.startswith("rewards/"))
            rank_zero_warn(
                f"in each of the last {self.silent} steps all completions got the same reward in {self.LARGEST_SHARE:.0%} of "
                "the groups or more: nothing was learned from them. "
                f"Now {rewards}; completions/clipped_ratio {metrics.get('completions/clipped_ratio', float('nan')):.2f}, "
                f"data/failed {metrics.get('data/failed', float('nan')):.0f}. Read the last rollouts: are answers cut off "
                "(model.sampling.max_tokens), in another format than the prompt asks for (data.grounding.prompt), all right "
                "or all wrong (choose samples by difficulty), or all alike (model.sampling.temperature)?"
            )
