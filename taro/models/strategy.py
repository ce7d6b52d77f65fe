"""Weights, gradients and optimizer spread over all ranks: `trainer.strategy: fsdp2`, or `fsdp2_sync_each_pack`."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks of all nodes. `GRPOModule.configure_model` shards the weights.

    Args:
        gradient_sync: gradients are reduced once a `step`, and until then each rank holds its own of all weights, in float32;
            or with each `pack`, which takes less memory and more communication.
        timeout_minutes: that a rank waits for the others, whose videos may take long, before the run is given up.
    """

    def __init__(self, gradient_sync: Literal["step", "pack"] = "step", timeout_minutes: float = 60.0) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes))
        self.gradient_sync = gradient_sync

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        if self.root_device.type == "cuda":  # small objects go by the CPU
            self._process_group_backend = "cpu:gloo,cuda:nccl"
        super().setup_environment()


StrategyRegistry.register("fsdp2", ShardedStrategy, description="weights sharded over all ranks (FSDP2)")
StrategyRegistry.register(
    "fsdp2_sync_each_pack", ShardedStrategy, description="the same, gradients reduced with each pack", gradient_sync="pack"
)
