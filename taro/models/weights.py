"""A model's weights under transformers' names, wherever they are: whole, spread over ranks, or with adapters on top."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_parameter_registration_hook


@dataclass(frozen=True)
class AdaptedWeight:
    """A linear layer's weight with its low-rank update, W + scaling * B A (LoRA, arXiv 2106.09685), added up where needed."""

    base: Tensor  # (out, in)
    down: Tensor  # A, (rank, in)
    up: Tensor  # B, (out, rank)
    scaling: float

    @property
    def shape(self) -> torch.Size:
        return self.base.shape


Weight = Tensor | AdaptedWeight


def named_weights(model: nn.Module) -> Iterator[tuple[str, Weight]]:
    """Each parameter of a transformers model under the name that it has without adapters; tied ones once."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        layer, is_base, rest = name.partition(".base_layer.")
        if not is_base:
            yield name, parameter
        elif rest == "weight":
            adapted = model.get_submodule(layer)
            down, up = (part["default"].weight for part in (adapted.lora_A, adapted.lora_B))
            yield f"{layer}.weight", AdaptedWeight(parameter, down, up, adapted.scaling["default"])
        else:
            yield f"{layer}.{rest}", parameter


@torch.no_grad()
def whole_weight(weight: Weight, dtype: torch.dtype | None = None) -> Tensor:
    """Gathered where it is sharded, which takes all ranks; with its adapter added. In `dtype`, None: its own; shards are cast
    before they are sent around."""
    if isinstance(weight, AdaptedWeight):
        base, down, up = (whole_weight(part) for part in (weight.base, weight.down, weight.up))
        return (base.float() + weight.scaling * (up.float() @ down.float())).to(base.dtype).to(dtype or base.dtype)
    value = weight.detach().to(dtype or weight.dtype)
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(
    weights: Iterable[tuple[str, Weight]], dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """One whole tensor at a time, in `dtype`; None: its own."""
    for name, weight in weights:
        yield name, whole_weight(weight, dtype)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made inside have parameters without memory; their buffers are real."""

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:  # the second name of tied weights
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(to_meta)
    try:
        yield
    finally:
        handle.remove()
