"""The base of all errors that a user can cause, and how a command ends with one: its message, and exit code 1. Ctrl-C is code
130. Nothing heavy is imported."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT


class TaroError(Exception):
    """Something that a user can mend; the message says what was got, what is allowed, and what to change."""


@contextmanager
def clean_exit(*others: type[BaseException], interrupted: str = "stopped by Ctrl-C") -> Iterator[None]:
    """Around all that a command does.

    Args:
        others: errors whose message is all that a user needs, beside TaroError and those of the operating system, as of a
            full disk.
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
    except (TaroError, *others) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {describe(error)}")


def _leave(message: str) -> NoReturn:
    print(f"\n{message}", file=sys.stderr)
    sys.exit(INTERRUPTED)


def describe(error: OSError) -> str:
    """The file first, where it is known."""
    return f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
