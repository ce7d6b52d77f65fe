"""The base of all errors that a user can cause, and how a command ends with one: its message, and exit code 1. Ctrl-C is code
130. Nothing heavy is imported."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT


class TaroError(Exception):
    """Something that a user can mend; the message says what was got, what is allowed, and what to change."""


_interrupts: list[str] = []  # of this process, since `clean_exit` was entered


def interrupt() -> NoReturn:
    """Raise KeyboardInterrupt, and keep in mind that it was: libraries swallow it, or fail on the way out."""
    _interrupts.append("SIGINT")
    raise KeyboardInterrupt


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
    _interrupts.clear()
    try:
        with _interruptible():
            yield
    except KeyboardInterrupt:
        _leave(interrupted)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED or not (_interrupts or isinstance(leaving.__context__, KeyboardInterrupt)):
            raise
        _leave(interrupted)  # Lightning has made it an exit with code 1
    except Exception as error:
        if _interrupts:
            _leave(f"{interrupted} ({type(error).__name__}: {str(error).partition(chr(10))[0]})")
        if isinstance(error, (TaroError, *others)):
            sys.exit(f"error: {error}")
        if isinstance(error, OSError):
            sys.exit(f"error: {describe(error)}")
        raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C calls `interrupt` in this process alone. A terminal sends it to all that were forked, too, which have this handler
    from the start: workers go on until they are told to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()
    earlier = signal.signal(signal.SIGINT, lambda *_: interrupt() if os.getpid() == process else None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _leave(message: str) -> NoReturn:
    _interrupts.clear()
    print(f"\n{message}", file=sys.stderr)
    sys.exit(INTERRUPTED)


def describe(error: OSError) -> str:
    """The file first, where it is known."""
    return f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
