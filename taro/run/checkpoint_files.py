"""The checkpoints of a run, folders `step_000040.ckpt` in one folder: each is whole or absent.

A checkpoint is written beside its place, under a name that ends in `.part`, flushed to disk and then renamed. Nothing here
needs a model, and no tensor is read to look at a checkpoint.
"""

from __future__ import annotations

import re
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from taro.models.checkpoint import CheckpointError, find_fault, refuse_old

NAME = re.compile(r"step_(\d{6,})\.ckpt")
DAMAGED = ".damaged"  # ends the name of what was found damaged
LAST, BEST = "last.ckpt", "best.ckpt"  # links, for people


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
        CheckpointError: the one that is wanted is damaged, or all in the folder are; or it was written by another version.
    """
    if wanted is None:
        return None
    named = wanted not in ("last", "auto")
    paths = [Path(wanted)] if named else list(list_checkpoints(folder).values())
    for path in reversed(paths):
        try:
            refuse_old(path)
        except CheckpointError as error:  # the format of another version is no damage
            raise CheckpointError(f"ckpt_path = {wanted}: {error}") from None
        fault = find_fault(path)
        if fault is None:
            return path.resolve()
        if named:
            advice = "name another, or last for the run's newest whole one"
            raise CheckpointError(f"ckpt_path = {path} is damaged ({fault}): {advice}")
        rank_zero_warn(f"{path} is damaged ({fault}): the checkpoint before it is used")
    if paths:
        raise CheckpointError(f"ckpt_path = {wanted}: all checkpoints in {folder} are damaged; without ckpt_path a run is new")
    if wanted == "last":
        raise CheckpointError(none_yet(folder))
    return None


def none_yet(folder: Path) -> str:
    return f"ckpt_path = last: there is no checkpoint in {folder}; leave ckpt_path out, or set auto, to start a new run"
