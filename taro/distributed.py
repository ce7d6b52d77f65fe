"""What the ranks of a run have to agree on. Each has its own prompts, and so its own number of passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import ProcessGroup


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def global_rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def cpu_group(known: ProcessGroup | None) -> ProcessGroup | None:
    """All ranks on the CPU; None of one process without others. All ranks call this.

    `known` is the group of before. With one rank it is an engine that sets up torch.distributed, and that ends all groups when
    it is restarted: then there is a new one.
    """
    if not distributed.is_initialized():
        return None
    try:
        distributed.get_backend(known)  # without a group the default one's
    except ValueError:
        known = None
    return known or distributed.new_group(backend="gloo")


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


def exchange(parcels: Sequence[bytes], device: torch.device) -> list[bytes]:
    """Hand each rank its parcel, and take this rank's from each, itself included, in their order. None may be empty. All ranks
    call this.

    Args:
        device: by which they go, one that the ranks talk by.
    """
    sizes, rank = gather([len(parcel) for parcel in parcels]), global_rank()  # of what each rank hands to each
    coming = [to_each[rank] for to_each in sizes]
    handed = torch.frombuffer(bytearray().join(parcels), dtype=torch.uint8).to(device)
    taken = handed.new_empty(sum(coming))
    distributed.all_to_all_single(taken, handed, coming, sizes[rank])
    return [part.numpy().tobytes() for part in taken.cpu().split(coming)]
