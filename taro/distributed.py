"""What the ranks of a run have to agree on. Each has its own prompts, and so its own number of passes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed, nn


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def global_rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all ranks, each of which has all weights. A rank without any adds nothing; if none has any, it
    stays so."""
    parameters = list(parameters)
    if world_size() == 1 or not any(gather(any(parameter.grad is not None for parameter in parameters))):
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)


def gather(value: Any) -> list[Any]:
    """The (small, picklable) values of all ranks, in their order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values
