"""Video files as libav opens them, and what can be wrong with a file: it may be anything, and reading it may block.

A pts is a presentation time, an integer in units of the stream's time base.
"""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import av

from taro.errors import TaroError

MOST_PIXELS = 2**26  # of a picture; damage in a header can ask for so much memory that the system kills the process
# Containers, by libav's names. Others are none of videos, have no times, or tell libav to read other files, here or in a
# network, as playlists do. All of these are known by their first bytes, so that decord's older libav takes them for no other,
# but for those of MPEG, which decord does not get.
CONTAINERS = ("mov", "matroska", "avi", "flv", "mpeg", "mpegts", "ogg", "asf", "gif", "ivf", "yuv4mpegpipe", "rm")
KINDS = "mp4, mov, mkv, webm, avi, flv, mpg, ts, ogv, wmv, gif, ivf, y4m and rm"
GRACE = 1.0  # seconds for reading that sees by itself that its time is over

Result = TypeVar("Result")


class VideoError(TaroError):
    """A video that cannot be used: the `path` of the file and the `reason`, a phrase that says what is wrong with it."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # as they came, so that pickling between processes rebuilds it
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoFile:
    """A file, which may not exist, to be read from now on for at most `timeout` seconds."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path, self.timeout, self.end = path, timeout, time.monotonic() + timeout

    @property
    def seconds_left(self) -> float:
        return max(self.end - time.monotonic(), 0.0)

    def error(self, reason: str) -> VideoError:
        return VideoError(self.path, reason)

    def time_error(self) -> VideoError:
        return self.error(f"is not read within {self.timeout:g} s; if it is only long, raise `timeout` of the video settings")

    def check_time(self) -> None:
        """Raise VideoError where the time is over."""
        if self.seconds_left == 0:
            raise self.time_error()

    def within_limit(self, read: Callable[[], Result]) -> Result:
        """What `read` returns or raises; VideoError where it goes on after the file's time.

        It runs in another thread. Where a call into libav or the system blocks, as on a network folder that is gone, that
        thread is left behind, and ends when the call returns. A call that blocks with Python's GIL held blocks the process
        nevertheless: PyAV holds it where it frees a decoder, not where it reads and decodes.
        """
        answers: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()
        _reader().put((read, answers))
        try:
            result, error = answers.get(timeout=self.seconds_left + GRACE)
        except Empty:
            del _own.reader
            raise self.time_error() from None
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # it knows this frame: the cycle would keep the pictures read so far

    @contextmanager
    def opened(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        """The container and its picture stream; what the file makes libav or the system raise becomes a VideoError."""
        # PyAV's callback for libav's messages takes the GIL in the decoder's threads, for which PyAV waits with the GIL held
        # when it frees a decoder: a message about damage would block the process for ever. Other packages switch it on.
        av.logging.set_level(None)
        try:
            self._check_kind()
            with self._open() as container:
                yield container, self._picture_stream(container)
        except (av.FFmpegError, OSError) as error:
            self.check_time()
            reason = f"cannot be decoded ({type(error).__name__}: {error})"
            raise self.error(f"{reason}: no video, or cut off; copy it again") from error

    def _open(self) -> av.container.InputContainer:
        name = str(self.path.absolute())  # what is before a colon in another one counts as a protocol
        options = {"format_whitelist": ",".join(CONTAINERS)}  # libav looks there before it does what a file tells it to
        try:
            return av.open(name, options=options, metadata_errors="ignore", timeout=self.seconds_left)
        except av.ArgumentError as error:
            raise self.error(f"is not a video file of a kind that is read ({KINDS}; no pictures, no playlists)") from error

    def packets(self, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[tuple[int, av.Packet]]:
        """The stream's packets that hold a picture, with its pts."""
        for packet in container.demux(stream):
            self.check_time()
            if packet.size == 0:  # a repeated picture, or the end
                continue
            pts = packet.dts if container.format.name == "avi" else packet.pts  # an AVI's decoding times are the even ones
            if pts is None:
                raise self.error("its pictures have no times")
            yield pts, packet

    def _check_kind(self) -> None:
        """Raise VideoError for all but a regular file with something in it: to open a pipe or a device may block."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: no path at all
            raise self.error("does not exist") from error
        if not stat.S_ISREG(status.st_mode):
            raise self.error("is not a file")
        if status.st_size == 0:
            raise self.error("is empty: copy it again")

    def _picture_stream(self, container: av.container.InputContainer) -> av.VideoStream:
        attached = av.stream.Disposition.attached_pic  # the cover of an audio file is a video stream, too
        moving = [stream for stream in container.streams.video if not stream.disposition & attached]
        if not moving:
            raise self.error("has no picture stream: it is sound alone; name a video")
        best = container.streams.best("video")
        stream = best if best in moving else moving[0]
        decoder = stream.codec_context
        if decoder is None:
            raise self.error("its pictures are of a kind that this libav cannot decode")
        if decoder.width * decoder.height > MOST_PIXELS:
            raise self.error(f"its pictures of {decoder.width} x {decoder.height} pixels are too large")
        decoder.options = {"max_pixels": str(MOST_PIXELS)}  # the pictures may be larger than the header says
        return stream


class _Reader:
    """A thread that reads for another one, call after call. A thread for each call would not do: the system gives it memory
    of its own, and of all those parts more and more would be in use a little."""

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


def _reader() -> SimpleQueue:
    """The calls of this thread's reader; a forked process has no threads but the one that forked."""
    if not hasattr(_own, "reader") or not _own.reader.thread.is_alive():
        _own.reader = _Reader()
    return _own.reader.calls
