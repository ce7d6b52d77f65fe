"""Advantages relative to the rewards of all groups of a step, on all ranks, and of the steps before it.

B groups of a step, G completions of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from taro.distributed import gather
from taro.rl.advantages import EMAStd, batch_advantages
from taro.rl.group import Group
from taro.rl.group_rewards import earned_total
from taro.rl.settings import AdvantageSettings


class StepAdvantages(L.Callback):
    """What is remembered of a run's steps is in each checkpoint, as the state of a callback. A step that is made again after a
    resume, because a run was cut short in it, is taken in once."""

    def __init__(self, settings: AdvantageSettings) -> None:
        form = "released" if settings.scale == "ema_released" else "published"
        self.ema = None if settings.scale == "batch" else EMAStd(settings.decay, form=form)
        self.batch: Tensor | None = None  # (B, G) rewards of the step
        self.step, self.before = -1, {}  # the last step that was taken in, and what was remembered before it

    def take_in(self, step: int, groups: Sequence[Group]) -> None:
        """This rank's groups, with what they earn. Called by all ranks, once in each step."""
        ranks = gather([(earned_total(group), group.example.sample.task) for group in groups])
        rewards, tasks = ([pair[part] for rank in ranks for pair in rank] for part in (0, 1))
        if not rewards:
            return
        self.batch = torch.stack(rewards)
        if self.ema is None:
            return
        if step == self.step:
            self.ema.load_state_dict(self.before)
        self.step, self.before = step, self.ema.state_dict()
        self.ema.update(self.batch, tasks)

    def __call__(self, rewards: Tensor, tasks: Sequence[str]) -> Tensor:
        """Advantages of some groups of the step, (groups, G) -> (groups, G)."""
        if self.ema is None:
            return batch_advantages(rewards, self.batch)
        return self.ema.advantages(rewards, tasks)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.ema is None else {"step": self.step, "before": self.before, "now": self.ema.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.ema is not None:
            self.step, self.before = state_dict["step"], state_dict["before"]
            self.ema.load_state_dict(state_dict["now"])
