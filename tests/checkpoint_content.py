"""All that a checkpoint holds, in memory, to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as dcp

from taro.models.checkpoint import MODEL, OPTIMIZER, read_run


def read_all(path: Path) -> dict[str, Any]:
    """Its `run.json`, and as `weights` and `optimizer` its tensors."""
    entries = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    dcp.load(tensors, checkpoint_id=path, no_dist=True)
    parts = {
        part: {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for part, prefix in (("weights", MODEL), ("optimizer", OPTIMIZER))
    }
    return read_run(path) | parts


def assert_equal(one: Any, other: Any) -> None:
    """Bit-equal tensors and equal values, all the way down."""
    differences = list(differing(one, other))
    assert not differences, differences[:5]


def differing(one: Any, other: Any, name: str = "") -> list[str]:
    """What differs, by its name."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [f"{name} differs by up to {(one - other).abs().max():.1e}"]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [text for key in one for text in differing(one[key], other[key], f"{name}.{key}")]
    return [] if type(one) is type(other) and one == other else [f"{name}: {one} and {other}"]
