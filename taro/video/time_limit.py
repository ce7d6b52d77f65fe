"""Reading that must come to an end, although what it calls may block and can't be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from taro.video.file import VideoFile

GRACE = 1.0  # seconds for reading that sees by itself that its time is over

Result = TypeVar("Result")


def read_within_limit(file: VideoFile, read: Callable[[], Result]) -> Result:
    """What `read` returns or raises; VideoError where it goes on after the file's time.

    It runs in another thread. Where a call into libav or the system blocks, as on a network folder that is gone, that thread
    is left behind, and ends when the call returns. A call that blocks with Python's GIL held blocks the process
    nevertheless: PyAV holds it where it frees a decoder, not where it reads and decodes.
    """
    answers: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()
    _reader().calls.put((read, answers))
    try:
        result, error = answers.get(timeout=file.seconds_left + GRACE)
    except Empty:
        del _own.reader
        raise file.time_error() from None
    if error is None:
        return result
    try:
        raise error
    finally:
        del error  # it knows this frame: the cycle would keep the pictures read so far


class _Reader:
    """A thread that reads for another one, call after call.

    A thread for each call would not do: the system gives it memory of its own, and of all those parts more and more would be
    in use a little.
    """

    def __init__(self) -> None:
        self.calls: SimpleQueue = SimpleQueue()
        self.thread = threading.Thread(target=_serve, args=(self.calls,), daemon=True, name="video reader")
        self.thread.start()

    def __del__(self) -> None:
        self.calls.put(None)


def _serve(calls: SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        read, answers = call
        try:
            answers.put((read(), None))
        except BaseException as error:
            answers.put((None, error))


_own = threading.local()  # the reader of each thread that asks


def _reader() -> _Reader:
    """This thread's reader; a forked process has no threads but the one that forked."""
    reader = getattr(_own, "reader", None)
    if reader is None or not reader.thread.is_alive():
        reader = _own.reader = _Reader()
    return reader
