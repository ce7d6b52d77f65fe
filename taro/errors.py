"""How a command ends: what its user can cause is one line and exit code 1, Ctrl-C is code 130. Nothing heavy is imported."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT


@contextmanager
def endings(*errors: type[BaseException], interrupted: str = "stopped by Ctrl-C") -> Iterator[None]:
    """Around all that a command does.

    Args:
        errors: whose message is all that a user needs; so is that of the operating system, as of a full disk.
        interrupted: what Ctrl-C leaves to be said.

    Raises:
        SystemExit: one of them, or Ctrl-C, has ended the command.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave(interrupted)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED or not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        _leave(interrupted)  # Lightning has made it an exit with code 1
    except errors as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {describe(error)}")


def _leave(message: str) -> NoReturn:
    print(f"\n{message}", file=sys.stderr)
    sys.exit(INTERRUPTED)


def describe(error: OSError) -> str:
    """The file first, where it is known."""
    return f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
