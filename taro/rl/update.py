"""One update of the weights: gradients of all ranks added up and clipped, AdamW, the learning rate of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taro.distributed import sum_gradients
from taro.models.weights import whole_weight
from taro.rl.schedule import learning_rate_factor
from taro.rl.settings import OptimizerSettings


@dataclass(frozen=True)
class Gradient:
    """All of it, in the parameters, clipped."""

    norm: Tensor  # () before clipping
    finite: bool  # one that is not must never reach the weights


def make_optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def sum_and_clip(parameters: Sequence[nn.Parameter], clip_norm: float, *, sharded: bool) -> Gradient:
    """Add the gradients up over ranks, which FSDP2 has done already where weights are sharded, and clip their norm."""
    if not sharded:
        sum_gradients(parameters)
    norm = whole_weight(nn.utils.clip_grad_norm_(parameters, clip_norm))
    return Gradient(norm, bool(norm.isfinite()))


def learning_rate(settings: OptimizerSettings, step: int, total_steps: float) -> float:
    """The rate of a step. It follows from the step and the settings alone: no checkpoint has to keep it."""
    return settings.learning_rate * learning_rate_factor(
        step,
        total_steps,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        final_share=settings.final_share,
    )


def refuse_skipped(in_a_row: int, most: int) -> None:
    """
    Raises:
        FloatingPointError: too many updates in a row had to be left out.
    """
    if in_a_row >= most:
        raise FloatingPointError(
            f"the gradient was not finite in {in_a_row} updates in a row; the weights are those from before. Look at the "
            "batches in the run's folder skipped/; lower model.optimizer.learning_rate, or set trainer.precision to 32-true"
        )
