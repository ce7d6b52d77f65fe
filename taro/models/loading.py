"""The policy and its reference, ready to be trained."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from taro.distributed import global_rank
from taro.models.adapters import LoRASettings, add_adapters, reset_adapters
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import fill, reshard, shard, spread


def load_policy(
    name_or_path: str,
    dtype: str,
    attention: str,
    *,
    lora: LoRASettings | None = None,
    with_reference: bool = True,
    mesh: DeviceMesh | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[QwenVL, QwenVL | None]:
    """The policy with its tower frozen, and the frozen reference: None if it isn't asked for, or is the policy without its
    adapters.

    Args:
        mesh: ranks that share the weights. Rank 0 alone ever has the whole model then, in the host's memory.
        compute_dtype: that shared weights are gathered in; None: their own.
    """
    policy = QwenVL.from_pretrained(name_or_path, dtype, attention, weights=mesh is None)
    policy.freeze_tower()
    reference = None
    if lora is not None:
        add_adapters(policy.model, lora)
    elif with_reference:
        reference = policy.frozen_copy()
    if mesh is not None:
        source = QwenVL.from_pretrained(name_or_path, dtype) if global_rank() == 0 else None
        if reference is not None:
            reference.model.model.visual = None  # it is the policy's: a module is sharded as part of one model
            shard(reference, mesh, compute_dtype)
            fill(reference, source)
        shard(policy, mesh, compute_dtype)
        fill(policy, source)
    return policy, reference


@torch.no_grad()
def reload_policy(policy: QwenVL, name_or_path: str, dtype: str, lora: LoRASettings | None = None) -> None:
    """Give a policy, sharded or whole, the weights back that its training started from. Of a sharded policy all ranks call
    this; the settings are those of `load_policy`."""
    reshard(policy)
    if lora is not None:
        reset_adapters(policy.model)
        return
    with torch.device("cpu"):
        needed = global_rank() == 0 or not isinstance(policy, FSDPModule)
        source = QwenVL.from_pretrained(name_or_path, dtype) if needed else None
    whole = {} if source is None else {f"policy.{name}": value for name, value in source.named_parameters()}
    for name, parameter in policy.trained_weights().items():
        parameter.copy_(spread(whole.get(name), parameter))
