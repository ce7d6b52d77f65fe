"""A rollout engine that always has the policy's present weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from lightning.pytorch.utilities import rank_zero_warn

from taro.distributed import world_size
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import gathered, reshard
from taro.rollout.engine import EngineError, RolloutEngine, RolloutGroup, RolloutPrompt, SamplingSettings


class SyncedEngine:
    """Hands the policy's weights to an engine when they have changed, and replaces one that fails."""

    def __init__(self, engine: RolloutEngine, policy: QwenVL) -> None:
        self.engine, self.policy = engine, policy
        self.synced = False

    @property
    def is_policy(self) -> bool:
        return self.engine.is_policy

    def weights_changed(self) -> None:
        """Have the next `generate` hand over the policy's weights."""
        self.synced = False

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt. An engine that fails is replaced once, unless other ranks would have to wait."""
        try:
            return self._generate(prompts, sampling)
        except EngineError as error:
            if world_size() > 1:
                raise
            rank_zero_warn(f"{error}. Once more, with a fresh engine.")
        self.engine.restart()
        return self._generate(prompts, sampling)

    def _generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        if self.engine.stale or not self.synced:
            reshard(self.policy)
            self.engine.sync(self.policy.named_weights())
            self.synced = True
        with gathered(self.policy, decoder=True) if self.is_policy else nullcontext():
            return self.engine.generate(prompts, sampling)

    def sleep(self) -> None:
        """Give memory back until the next rollout."""
        self.engine.sleep()
