"""FSDP2 (`trainer.strategy: fsdp2`, or `fsdp2_sync_each_pack`): weights, gradients and optimizer that are spread over the
ranks, loaded from one of them, and whole only where they are used.

What gathers weights has to be called by all ranks, in the same order: a model's passes, `gathered`, `fill`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from taro.models.qwen_vl import QwenVL


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


def shard(model: QwenVL, mesh: DeviceMesh, compute_dtype: torch.dtype | None) -> None:
    """Spread the weights over the ranks of `mesh`: each decoder layer, the tower (where there is one), and what is left
    (embeddings, norm and head, which may be tied) are gathered by themselves.

    Args:
        compute_dtype: that weights are gathered in; None: their own. Gradients are reduced in float32.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for layer in model.decoder.layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    # The head runs chunk by chunk, and again in the backward pass; the tower as often as there are videos. `gathered` and
    # `reshard` say for how long they are whole.
    for module in (model.tower, model):
        if module is not None:
            fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
            module.set_reshard_after_backward(False, recurse=False)
    for method in ("hidden_states", "encode_video"):
        register_fsdp_forward_method(model, method)


@torch.no_grad()
def fill(model: QwenVL, source: QwenVL | None) -> None:
    """Give a sharded model without weights those of `source`, which rank 0 alone has, one parameter at a time."""
    whole = {} if source is None else dict(source.named_parameters(remove_duplicate=False))
    filled: dict[Tensor, nn.Parameter] = {}  # tied weights stay one parameter
    state = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter not in filled:
            shards = spread(whole.get(name), parameter)
            filled[parameter] = nn.Parameter(shards, requires_grad=parameter.requires_grad)
        state[name] = filled[parameter]
    model.load_state_dict(state, strict=False, assign=True)


def spread(value: Tensor | None, parameter: nn.Parameter) -> Tensor:
    """The shards of a whole value for a sharded parameter, which rank 0 alone needs to have; all ranks call this. For a
    parameter that is not sharded the value itself."""
    if not isinstance(parameter, DTensor):
        return value
    whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device_mesh.device_type)
    if value is not None:
        whole.copy_(value)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)


@contextmanager
def gathered(model: QwenVL, *, decoder: bool = False) -> Iterator[None]:
    """Inside, the tower, embeddings and head (and with `decoder` its layers) are whole, and ranks may call them as often as
    each needs to. Nothing is done to a model that is not sharded."""
    layers = list(model.decoder.layers) if decoder else []
    modules = [module for module in (model, model.tower, *layers) if isinstance(module, FSDPModule)]
    try:
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        yield
    finally:
        for module in modules:
            module.reshard()
        for layer in layers:
            if isinstance(layer, FSDPModule):
                layer.set_reshard_after_forward(True, recurse=False)


def reshard(model: nn.Module) -> None:
    """Give back what a pass without backward has left gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
