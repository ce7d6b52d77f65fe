"""A checkpoint of sharded weights: a folder to which each rank writes its part, and that any number of ranks can read.

Its content is that of a checkpoint file, a dict with `state_dict`, `optimizer_states` and what Lightning and the callbacks add:
tensors are in PyTorch's distributed format, all else is in `meta.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from taro.distributed import global_rank
from taro.errors import TaroError

META = "meta.pt"
MODEL, OPTIMIZER = "model", "optimizer"


def is_checkpoint_folder(path: str | Path) -> bool:
    return Path(path, META).is_file()


def write_folder(folder: Path, checkpoint: dict[str, Any]) -> None:
    """Called by all ranks with the same keys; tensors may be sharded."""
    dcp.save(_begin(folder, checkpoint), checkpoint_id=folder)


def start_folder(folder: Path, checkpoint: dict[str, Any], group: ProcessGroup) -> Future:
    """The same in a thread, from a copy in the host's memory that is made before this returns.

    Args:
        group: of all ranks on the CPU, used for nothing else meanwhile.
    """
    return dcp.async_save(_begin(folder, checkpoint), checkpoint_id=folder, process_group=group)


def _begin(folder: Path, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Write `meta.pt`; returns the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (optimizer,) = checkpoint["optimizer_states"]
    if global_rank() == 0:
        rest = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "optimizer_states")}
        torch.save(rest | {"param_groups": optimizer["param_groups"]}, folder / META)
    return _flat(checkpoint["state_dict"], optimizer["state"])


def read_folder(folder: Path) -> dict[str, Any]:
    """The whole checkpoint, in memory, as `torch.load` gives that of a file."""
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in dcp.FileSystemReader(folder).read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(tensors, checkpoint_id=folder, no_dist=True)
    return _unflat(tensors, torch.load(folder / META, map_location="cpu", weights_only=True))


def read_rest(path: str | Path) -> dict[str, Any]:
    """A checkpoint, folder or file, without its tensors in memory."""
    path = Path(path, META) if is_checkpoint_folder(path) else path
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


class CheckpointError(TaroError):
    """A checkpoint that can't be used."""


def read_into(path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Put the weights and the optimizer's state of a checkpoint, folder or file, into parameters, sharded or whole; each rank
    reads its part. Returns the rest of the checkpoint.

    Args:
        parameters: those that are trained, by their names in the checkpoint, in the optimizer's order.

    Raises:
        CheckpointError: it has other weights.
    """
    ordered = list(parameters.values())
    if path.is_dir():
        entries = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        stored = {name: entry.size for name, entry in entries.items() if name.startswith(f"{MODEL}.")}
        _require_same(path, {name.removeprefix(f"{MODEL}."): size for name, size in stored.items()}, parameters)
        tensors = {f"{MODEL}.{name}": parameter.detach() for name, parameter in parameters.items()}
        for name, entry in entries.items():
            if name.startswith(f"{OPTIMIZER}.") and optimizer is not None:
                tensors[name] = _empty_state(entry, ordered[int(name.split(".")[1])])
        dcp.load(tensors, checkpoint_id=path)
        checkpoint = _unflat(tensors, torch.load(path / META, map_location="cpu", weights_only=True))
        del checkpoint["state_dict"]
    else:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        weights = checkpoint.pop("state_dict")
        _require_same(path, {name: value.shape for name, value in weights.items()}, parameters)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(_part(weights[name], parameter))
        for number, state in checkpoint["optimizer_states"][0]["state"].items():
            for key, value in state.items():
                state[key] = _part(value, ordered[number])
    (state,) = checkpoint.pop("optimizer_states")
    if optimizer is not None:
        optimizer.load_state_dict(state)
    return checkpoint


def _require_same(path: Path, stored: Mapping[str, torch.Size], parameters: Mapping[str, nn.Parameter]) -> None:
    expected = {name: parameter.shape for name, parameter in parameters.items()}
    differing = [name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name)]
    if differing:
        lines = [
            f"- {name}: {_shape(stored.get(name))} there, {_shape(expected.get(name))} here" for name in sorted(differing)[:5]
        ]
        raise CheckpointError(f"{path} has {len(differing)} weights that do not fit the model:\n" + "\n".join(lines))


def _shape(size: torch.Size | None) -> str:
    return "not" if size is None else str(tuple(size))


def _flat(weights: Mapping[str, Tensor], state: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    named = {f"{MODEL}.{name}": value for name, value in weights.items()}
    for number, values in state.items():
        named |= {f"{OPTIMIZER}.{number}.{key}": value for key, value in values.items()}
    return named


def _unflat(tensors: Mapping[str, Tensor], meta: dict[str, Any]) -> dict[str, Any]:
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == MODEL:
            weights[rest] = value
        else:
            number, key = rest.split(".")
            state.setdefault(int(number), {})[key] = value
    groups = meta.pop("param_groups")
    return meta | {"state_dict": weights, "optimizer_states": [{"state": state, "param_groups": groups}]}


def _empty_state(entry: TensorStorageMetadata, parameter: nn.Parameter) -> Tensor:
    """Room for a value of the optimizer: one for each weight, sharded alike, or one for all."""
    if entry.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=entry.properties.dtype)
    return torch.zeros(entry.size, dtype=entry.properties.dtype)


def _part(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of a whole value of a sharded parameter."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    value = value.to(parameter.device_mesh.device_type)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
