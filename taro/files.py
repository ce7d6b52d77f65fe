"""Files and folders that are whole or absent: written under another name beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

PART = ".part"  # in the name of what is being written, or deleted


@contextmanager
def whole_file(path: Path, *, sync: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """A new file to write to. It gets its name when all is written, and is deleted if that fails.

    Args:
        path: its name; the folder must be there.
        sync: whether it is on disk by then.
        replace: whether it takes the place of an earlier one, which else stays.
    """
    part = path.with_name(f"{path.name}{PART}{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}")  # folders may be shared
    try:
        with part.open("xb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if replace:
            os.replace(part, path)
        else:
            with suppress(FileExistsError):
                os.link(part, path)
    except OSError as error:
        if str(error.filename) != str(part):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # who asked for the file knows that name
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A small file, whole or not at all, and on disk when it returns."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """The same of what JSON can hold, to be read by people, too; dataclasses as their fields."""
    write_text(path, json.dumps(value, indent=2, default=asdict) + "\n")


def publish(part: Path, path: Path) -> None:
    """Give what is written whole its name, in place of what may have had it."""
    if part.is_dir():
        fsync(part)
        if path.exists():
            remove(path)
    os.replace(part, path)
    fsync(path.parent)


def remove(path: Path) -> None:
    """A folder loses its name first: half of one is never taken for a checkpoint."""
    if path.is_dir() and not path.is_symlink():
        if PART not in path.name:
            gone = path.with_name(f"{path.name}{PART}.gone")
            os.replace(path, gone)
            path = gone
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """What a killed process left half written or half deleted."""
    for path in folder.glob(f"*{PART}*"):
        remove(path)


def link(path: Path, name: str) -> None:
    """Point `name`, beside `path`, to it."""
    new = path.with_name(f"{name}{PART}{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(path.name)
    os.replace(new, path.with_name(name))


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
