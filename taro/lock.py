"""One process at a time works in a folder: a lock of the operating system, which ends with the process that has it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from taro.errors import TaroError

HELD = (errno.EACCES, errno.EAGAIN)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderInUse(TaroError):
    """Another process that is alive works in the folder."""


class FolderLock:
    """A lock on a file, made where missing, that says who has it. It is the process's: those that it starts have no part in
    it, and a second one on the same file in the same process is no obstacle.

    Args:
        path: of the file; it stays when the lock ends, since another process may be waiting to have it.
        folder: that the lock is for, as messages name it.
        advice: what to do while another process has it.

    Raises:
        FolderInUse: another process has it; says which.
        OSError: the file can't be made.
    """

    def __init__(self, path: Path, folder: Path, advice: str) -> None:
        self.file = path.open("a+")
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                holder = _read_holder(path)
                self.file.close()
                raise FolderInUse(f"{folder} is in use by {holder}: {advice}") from None
            if error.errno not in NO_LOCKS:
                raise
            message = f"the file system of {folder} has no locks: nothing keeps a second process out of the folder"
            warnings.warn(message, stacklevel=2)
        self.file.truncate(0)
        self.file.write(json.dumps({"pid": os.getpid(), "host": platform.node()}) + "\n")
        self.file.flush()

    def release(self) -> None:
        self.file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _read_holder(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError):
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    return "another process"
