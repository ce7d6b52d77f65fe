"""The checkpoints of a run, `step_000040.ckpt` in one folder: each is whole or absent.

Of whole weights a checkpoint is a file, of sharded ones a folder. It is written beside its place, under a name that ends in
`.part`, flushed to disk and then renamed. Nothing here needs a model, and nothing is loaded to look at a checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from taro.distributed import gather, global_rank
from taro.files import fsync, remove, write_text
from taro.models.checkpoint import CheckpointError, read_rest

NAME = re.compile(r"step_(\d{6,})\.ckpt")
DAMAGED = ".damaged"  # ends the name of what was found damaged
LAST, BEST = "last.ckpt", "best.ckpt"  # links, for people
MANIFEST = "manifest.json"  # of a folder: size and CRC-32 of its files
CHUNK = 2**24  # bytes
DIRECTORY_FLAG = 0x10  # of a zip's entry; PyTorch reads one that is marked so as if it were empty


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}.ckpt"


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """By step, in order."""
    found = {int(match[1]): path for path in folder.glob("step_*.ckpt") if (match := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def find_checkpoint(wanted: str | None, folder: Path) -> Path | None:
    """The checkpoint to go on from, None for a new run. A damaged one is never returned.

    Args:
        wanted: a path; `last`, the newest whole one in `folder`; `auto`, the same, or None where there is none; None.

    Raises:
        CheckpointError: the one that is wanted does not exist or is damaged, or all in the folder are.
    """
    if wanted is None:
        return None
    if wanted not in ("last", "auto"):
        return _require_whole(Path(wanted))
    paths = list_checkpoints(folder)
    for path in reversed(paths.values()):
        fault = find_fault(path)
        if fault is None:
            return path
        rank_zero_warn(f"{path} is damaged ({fault}): the checkpoint before it is used")
    if paths:
        raise CheckpointError(f"ckpt_path = {wanted}: all checkpoints in {folder} are damaged; without ckpt_path a run is new")
    if wanted == "last":
        raise CheckpointError(none_yet(folder))
    return None


def none_yet(folder: Path) -> str:
    return f"ckpt_path = last: there is no checkpoint in {folder}; leave ckpt_path out, or set auto, to start a new run"


def _require_whole(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"ckpt_path = {path}: there is no such checkpoint")
    fault = find_fault(path)
    if fault is not None:
        raise CheckpointError(f"ckpt_path = {path} is damaged ({fault}): name another, or last for the run's newest whole one")
    return path.resolve()


def find_fault(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, file or folder; None if they are those that were written. All are read, by
    each rank: they have to choose the same checkpoint before they can talk to each other.
    """
    try:
        fault = _folder_fault(path) if path.is_dir() else _file_fault(path)
        if fault is None:
            read_rest(path)
    except Exception as error:  # damaged bytes can fail in any way
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
    return fault


def _file_fault(path: Path) -> str | None:
    with zipfile.ZipFile(path) as file:
        flagged = [entry.filename for entry in file.infolist() if entry.external_attr & DIRECTORY_FLAG]
        bad = flagged[0] if flagged else file.testzip()
    return None if bad is None else f"{bad} in it is not what was written"


def _folder_fault(path: Path) -> str | None:
    manifest = path / MANIFEST
    if not manifest.is_file():
        return f"no {MANIFEST}"
    for name, written in json.loads(manifest.read_text()).items():
        file = path / name
        if not file.is_file():
            return f"no {name}"
        size = file.stat().st_size
        if size != written["size"]:
            return f"{name} has {size} bytes of {written['size']}"
        if _crc32(file) != written["crc32"]:
            return f"{name} is not what was written"
    return None


def write_file(path: Path, checkpoint: dict[str, Any]) -> None:
    """`torch.save`, without a copy in memory, and on disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def write_manifest(folder: Path) -> None:
    """The last file of a checkpoint folder. Called by all ranks, each of which reads what it has written."""
    own = {path.name: _describe(path) for path in sorted(folder.iterdir()) if _writer(path) == global_rank()}
    files = {name: about for part in gather(own) for name, about in part.items()}
    if global_rank() == 0:
        write_text(folder / MANIFEST, json.dumps(files, indent=1))


def _writer(path: Path) -> int:
    """Rank that wrote a file of PyTorch's distributed format."""
    match = re.match(r"__(\d+)_\d+\.distcp", path.name)
    return int(match[1]) if match else 0


def _describe(path: Path) -> dict[str, int]:
    fsync(path)
    return {"size": path.stat().st_size, "crc32": _crc32(path)}


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        for chunk in _chunks(file):
            value = zlib.crc32(chunk, value)
    return value


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def set_aside(path: Path) -> None:
    """A damaged checkpoint, under a name that is no checkpoint's."""
    aside = path.with_name(f"{path.name}{DAMAGED}")
    if aside.exists():
        remove(aside)
    os.replace(path, aside)
