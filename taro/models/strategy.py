"""Weights, gradients and optimizer spread over all ranks: `trainer.strategy: fsdp2`, or `fsdp2_sync_each_pack`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.optim import Optimizer

from taro.models.checkpoint import is_checkpoint_folder, read_folder, read_into, write_folder


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks of all nodes. `GRPOModule.configure_model` shards the weights; a checkpoint is a folder.

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
        if self.root_device.type == "cuda":  # small objects, and checkpoints that are written meanwhile, go by the CPU
            self._process_group_backend = "cpu:gloo,cuda:nccl"
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """Sharded, as the module has them."""
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Sharded, as the optimizer has it."""
        return getattr(optimizer, "_optimizer", optimizer).state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        write_folder(Path(self.broadcast(filepath)), checkpoint)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        (optimizer,) = self.optimizers or [None]
        return read_into(path, self.lightning_module.policy.trained_weights(), optimizer)


class FileOrFolder(TorchCheckpointIO):
    """Reads checkpoints of sharded runs, too, where nothing is sharded."""

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_folder(Path(path)) if is_checkpoint_folder(path) else super().load_checkpoint(path, *args, **kwargs)


StrategyRegistry.register("fsdp2", ShardedStrategy, description="weights sharded over all ranks (FSDP2)")
StrategyRegistry.register(
    "fsdp2_sync_each_pack", ShardedStrategy, description="the same, gradients reduced with each pack", gradient_sync="pack"
)
