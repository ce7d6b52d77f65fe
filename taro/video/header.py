"""How long videos are, by their headers: nothing is decoded, so that thousands of files take seconds."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import av

from taro.video.file import VideoError, VideoFile
from taro.video.time_limit import read_within_limit

TIMEOUT = 60.0  # seconds


def read_duration(path: Path) -> float:
    """Seconds of the pictures, as the header has it, or of the whole file where the header says no more.

    Raises VideoError where the file is missing or empty, can't be opened within TIMEOUT, or holds no pictures or no duration.
    Damage behind the header is not seen.
    """
    file = VideoFile.limited(path, TIMEOUT)

    def read() -> float:
        with file.opened() as (container, stream):
            if stream.duration:
                return float(stream.duration * stream.time_base)
            if container.duration:
                return container.duration / av.time_base
        raise file.error("its header has no duration")

    return read_within_limit(file, read)


def read_all_durations(paths: Iterable[Path], workers: int | None) -> dict[Path, float | VideoError]:
    """`read_duration` of each path, or the error that it raised, by `workers` processes (None: one for each core).

    A file that kills the process that reads it costs that file, and no other.
    """
    paths = list(paths)
    found: dict[Path, float | VideoError] = {}
    futures = {}
    with ProcessPoolExecutor(workers) as pool, suppress(BrokenProcessPool):
        for path in paths:
            futures[path] = pool.submit(_duration_or_error, path)
    for path, future in futures.items():
        with suppress(BrokenProcessPool):
            found[path] = future.result()
    return {path: found[path] if path in found else _duration_alone(path) for path in paths}


def _duration_alone(path: Path) -> float | VideoError:
    """`read_duration` in a process of its own."""
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(_duration_or_error, path).result()
        except BrokenProcessPool:
            return VideoError(path, "kills the process that reads it")


def _duration_or_error(path: Path) -> float | VideoError:
    try:
        return read_duration(path)
    except VideoError as error:
        return error
