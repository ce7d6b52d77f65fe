"""One update of the weights: gradients of all ranks added up and clipped, AdamW, the learning rate of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taro.distributed import sum_gradients
from taro.models.weights import whole_weight
from taro.rl.settings import OptimizerSettings


@dataclass(frozen=True)
class Gradient:
    """All of it, in the parameters, clipped."""

    norm: Tensor  # () before clipping
    finite: bool  # one that is not must never reach the weights


def make_optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    fused = all(parameter.is_cuda for parameter in parameters)  # one kernel for all of them
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)


def sum_and_clip(parameters: Sequence[nn.Parameter], clip_norm: float, *, sharded: bool) -> Gradient:
    """Add the gradients up over ranks, which FSDP2 has done already where weights are sharded, and clip their norm."""
    if not sharded:
        sum_gradients(parameters)
    norm = whole_weight(nn.utils.clip_grad_norm_(parameters, clip_norm))
    return Gradient(norm, bool(norm.isfinite()))


def require_updates(skipped: int, settings: OptimizerSettings) -> None:
    """Raises FloatingPointError after too many updates, `skipped` in a row, without a finite gradient."""
    if skipped >= settings.most_skipped:
        raise FloatingPointError(
            f"the gradient was not finite in {skipped} updates in a row; the weights are those from before. Look at the "
            "batches in the run's folder skipped/; lower model.optimizer.learning_rate, or set trainer.precision to 32-true"
        )


def learning_rate(settings: OptimizerSettings, step: int, total_steps: float) -> float:
    """The rate of the training step number `step` (from 0) of `total_steps`. It follows from them and the settings alone: no
    checkpoint has to keep it.

    It rises as (step + 1) / (warmup_steps + 1), so that no step is without a rate, and is whole in the step after the warm-up.
    `constant` stays there, also without an end (`total_steps` infinite). With p = (step - warmup_steps) / (total_steps -
    warmup_steps), from 0 up to just below 1 in the last step, `linear` falls as 1 - p and `cosine` as (1 + cos(pi p)) / 2,
    both squeezed between 1 and `final_share`, which a step beyond the last one has.
    """
    highest, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return highest * ((step + 1) / (warmup + 1))
    if settings.schedule == "constant":
        return highest
    left = max(0.0, total_steps - step) / max(1.0, total_steps - warmup)  # 1 - p
    height = left if settings.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return highest * (settings.final_share + (1 - settings.final_share) * height)
