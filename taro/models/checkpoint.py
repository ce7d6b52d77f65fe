"""A checkpoint: a folder in PyTorch's distributed format, that any number of ranks writes and reads, each its own part.

Its tensors are the trained weights, `model.NAME`, and the optimizer's state of each, `optimizer.NAME.KEY`. All else is in
`run.json`. The optimizer's settings are the config's: they are not stored.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException

from taro.errors import TaroError
from taro.files import write_text
from taro.messages import list_lines

RUN, METADATA = "run.json", ".metadata"  # the latter is what PyTorch writes last
MODEL, OPTIMIZER = "model.", "optimizer."

warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")  # so is one process


class CheckpointError(TaroError):
    """A checkpoint that can't be written or used."""


def named_tensors(weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The live tensors, by their names in a checkpoint."""
    tensors = {f"{MODEL}{name}": parameter.detach() for name, parameter in weights.items()}
    for name, parameter in weights.items():
        tensors |= {f"{OPTIMIZER}{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    return tensors


def begin(folder: Path, about: dict[str, Any] | None) -> None:
    """Make the folder, before the tensors are written, with the `run.json` of the rank that has something to say."""
    folder.mkdir(parents=True, exist_ok=True)
    if about is not None:
        write_text(folder / RUN, json.dumps(about, indent=1, default=_encode) + "\n")


def write(folder: Path, tensors: dict[str, Tensor], group: ProcessGroup | None, alone: bool = False) -> None:
    """Write the tensors, whole or sharded, and flush them to disk. Called by all ranks of `group`, or by one `alone`."""
    dcp.save(tensors, checkpoint_id=folder, process_group=group, no_dist=alone)


def write_meanwhile(folder: Path, tensors: dict[str, Tensor], group: ProcessGroup | None) -> Future:
    """The same in a thread, from a copy in the host's memory that is made before this returns. `group` is of all ranks on the
    CPU, and used for nothing else meanwhile."""
    return dcp.async_save(tensors, checkpoint_id=folder, process_group=group)


def read_run(path: str | Path) -> dict[str, Any]:
    """What `begin` was given.

    Raises:
        CheckpointError: it is no whole checkpoint, or one of TaRO 0.1.
    """
    refuse_old(Path(path))
    fault = find_fault(Path(path))
    if fault is not None:
        raise CheckpointError(f"{path} is not a whole checkpoint ({fault})")
    return _read_json(path)


def refuse_old(path: Path) -> None:
    """Raises CheckpointError for a checkpoint of TaRO 0.1: a file, or a folder with other files."""
    if path.is_file() or (path / "meta.pt").exists():
        raise CheckpointError(f"{path} looks like a checkpoint of TaRO 0.1, which only that version can use")


def read_into(path: Path, weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None) -> None:
    """Put the weights and the optimizer's state of a checkpoint into parameters, sharded or whole. Each rank reads its own
    part, without the others.

    Args:
        weights: all that are trained, by their names.

    Raises:
        CheckpointError: it has other weights, or can't be read.
    """
    refuse_old(path)
    entries = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    there = {name.removeprefix(MODEL): tuple(entry.size) for name, entry in entries.items() if name.startswith(MODEL)}
    here = {name: tuple(parameter.shape) for name, parameter in weights.items()}
    differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differing:
        lines = [f"{name}: {there.get(name, 'not')} there, {here.get(name, 'not')} here" for name in differing]
        raise CheckpointError(list_lines(f"{path} has {len(differing)} weights that do not fit the model:", lines))
    tensors = {f"{MODEL}{name}": parameter.detach() for name, parameter in weights.items()}
    for full_name, entry in entries.items():
        if optimizer is not None and full_name.startswith(OPTIMIZER):
            name, _, key = full_name.removeprefix(OPTIMIZER).rpartition(".")
            parameter, dtype = weights[name], entry.properties.dtype
            alike = entry.size == parameter.shape  # a value for each weight, sharded as it is, or one for all
            device = parameter.device if optimizer.defaults["fused"] else "cpu"  # of what is one for all
            room = torch.zeros_like(parameter, dtype=dtype) if alike else torch.zeros(entry.size, dtype=dtype, device=device)
            tensors[full_name] = optimizer.state[parameter][key] = room
    try:
        dcp.load(tensors, checkpoint_id=path, no_dist=True)
    except CheckpointException as error:
        raise CheckpointError(f"{path} can't be read ({reason(error)})") from error


def find_fault(path: Path) -> str | None:
    """Why a checkpoint is not whole; None if it is. No tensor is read: the metadata, which is written last, has to be there,
    and each file has to be as long as it says."""
    missing = [name for name in (RUN, METADATA) if not (path / name).is_file()]
    if missing:
        return f"no {missing[0]}"
    try:
        _read_json(path)
        places = dcp.FileSystemReader(path).read_metadata().storage_data.values()
    except Exception as error:  # damaged bytes can fail in any way
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
    for place in places:
        file, size = path / place.relative_path, place.offset + place.length
        if not file.is_file():
            return f"no {place.relative_path}"
        if file.stat().st_size < size:
            return f"{place.relative_path} has {file.stat().st_size} bytes of {size} or more"
    return None


def reason(error: BaseException) -> str:
    """The system's own words, where it was the system."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    if quoted := re.search(r'message: "([^"]+)"', str(error)):  # by safetensors
        return quoted[1]
    text = " ".join(f"{type(error).__name__} {error}".split())
    # Of another rank's error only its text arrives, which for PyTorch's writer does not say what was wrong.
    return f"no space left, or another error of the file system: {text}" if "inline_container" in text else text


def _read_json(path: str | Path) -> dict[str, Any]:
    return json.loads(Path(path, RUN).read_text(), object_hook=_decode)


def _encode(value: Any) -> Any:
    """A callback may keep a small tensor, as Lightning's EarlyStopping does."""
    if isinstance(value, Tensor):
        return {"tensor": value.tolist()}
    raise TypeError(f"a callback keeps a {type(value).__name__}, which JSON does not have")


def _decode(value: dict[str, Any]) -> Any:
    return torch.tensor(value["tensor"]) if value.keys() == {"tensor"} else value
