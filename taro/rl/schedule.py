"""The learning rate over a run, as a share of `model.optimizer.learning_rate`."""

from __future__ import annotations

import math
from typing import Literal

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate_factor(
    step: int,
    total_steps: float,
    *,
    schedule: Literal["constant", "linear", "cosine"] = "constant",
    warmup_steps: int = 0,
    final_share: float = 0.0,
) -> float:
    """What the learning rate is multiplied by in training step number `step` (from 0) of `total_steps`.

    It rises as (step + 1) / (warmup_steps + 1), so that no step is without a rate, and is 1 in the step after the warm-up.
    `constant` stays there, also without an end (`total_steps` infinite). With p = (step - warmup_steps) / (total_steps -
    warmup_steps), from 0 up to just below 1 in the last step, `linear` falls as 1 - p and `cosine` as (1 + cos(pi p)) / 2,
    both squeezed between 1 and `final_share`, which a step beyond the last one has.

    Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    left = max(0.0, total_steps - step) / max(1.0, total_steps - warmup_steps)  # 1 - p
    height = left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return final_share + (1 - final_share) * height
