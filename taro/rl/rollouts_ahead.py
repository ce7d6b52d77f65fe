"""One step off policy: a server makes the rollouts of a batch while the weights are updated with those of the batch before."""

from __future__ import annotations

from collections.abc import Sequence

from taro.data.examples import TrainingExample
from taro.models.qwen_vl import QwenVL
from taro.rl.rollouts import make_requests
from taro.rollout import RolloutGroup, RolloutPrompt, SamplingSettings, SyncedEngine


class RolloutsAhead:
    """Stands in a step for the engine, whose rollouts were begun in the step before. The first step of a run has none, and the
    last batch is trained on by nobody.

    Args: as those of `roll_out`.
    """

    is_policy = False

    def __init__(self, sampling: SamplingSettings, shuffled: int = 0) -> None:
        self.sampling, self.shuffled = sampling, shuffled
        self.batch: list[TrainingExample] = []  # whose rollouts are made
        self.updates = 0  # of the weights that make them
        self.staleness = 0  # updates since the weights that made those of the batch before
        self.groups: list[RolloutGroup] = []  # of the batch before

    def exchange(
        self, batch: list[TrainingExample], engine: SyncedEngine, policy: QwenVL, updates: int
    ) -> list[TrainingExample]:
        """Wait for the rollouts that were begun, and begin those of `batch` with the weights as they are, after so many
        `updates`. Returns the batch before, [] in the first step, whose rollouts `generate` gives. Called by all ranks."""
        self.groups, before = engine.finish(), self.batch
        self.staleness = updates - self.updates if before else 0
        self.batch, self.updates = batch, updates
        # From a GPU the thread that asks would read them behind all that the update has queued there.
        usable = [example.to("cpu") for example in batch if example.prompt is not None]
        engine.begin(make_requests(usable, [None] * len(usable), policy, engine, self.shuffled), self.sampling)
        return before

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """The group of each prompt of the batch before."""
        return self.groups
