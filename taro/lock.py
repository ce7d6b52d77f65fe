"""One process at a time works in a folder: a lock of the operating system, which ends with the process that has it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import warnings
from pathlib import Path
from typing import TextIO

from taro.errors import TaroError

HELD = (errno.EACCES, errno.EAGAIN)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FolderInUse(TaroError):
    """Another process that is alive works in the folder."""


def lock_file(path: Path, folder: Path, advice: str) -> TextIO:
    """A file, made where missing, that is locked until it is closed, and that says who has it. The lock is the process's: those
    that it starts have no part in it, and a second one on the same file in the same process is no obstacle.

    Args:
        path: of the file; it stays when the lock ends, since another process may be waiting to have it.
        folder: that the lock is for, as messages name it.
        advice: what to do while another process has it.

    Raises:
        FolderInUse: another process has it; says which.
        OSError: the file can't be made.
    """
    file = path.open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            file.seek(0)
            holder = file.readline().strip() or "another process"
            file.close()
            raise FolderInUse(f"{folder} is in use by {holder}: {advice}") from None
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(f"the file system of {folder} has no locks: nothing keeps a second process out of it", stacklevel=2)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    return file
