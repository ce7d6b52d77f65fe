"""How long videos are, by their headers: nothing is decoded, so that thousands of files take seconds."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import av

from taro.video.file import VideoError, VideoFile

TIMEOUT = 60.0  # seconds


def read_duration(path: Path) -> float:
    """Seconds of the pictures, as the header has it, or of the whole file where the header says no more.

    Raises VideoError where the file is missing or empty, can't be opened within TIMEOUT, or holds no pictures or no duration.
    Damage behind the header is not seen.
    """
    file = VideoFile(path, TIMEOUT)

    def read() -> float:
        with file.opened() as (container, stream):
            if stream.duration:
                return float(stream.duration * stream.time_base)
            if container.duration:
                return container.duration / av.time_base
        raise file.error("its header has no duration")

    return file.within_limit(read)


def read_all_durations(paths: Iterable[Path], workers: int | None) -> dict[Path, float | VideoError]:
    """`read_duration` of each path, or the error that it raised, by `workers` processes (None: one for each core).

    A file that kills the process that reads it costs that file, and no other.
    """
    paths = list(paths)
    found = _read_in_processes(paths, workers)
    for path in paths:
        if path not in found:  # it, or another one, killed its reader
            found |= {path: VideoError(path, "kills the process that reads it")} | _read_in_processes([path], 1)
    return {path: found[path] for path in paths}


def _read_in_processes(paths: list[Path], workers: int | None) -> dict[Path, float | VideoError]:
    """Those that were read before a process was killed."""
    futures, found = {}, {}
    with ProcessPoolExecutor(workers) as pool, suppress(BrokenProcessPool):
        for path in paths:
            futures[path] = pool.submit(_duration_or_error, path)
    for path, future in futures.items():
        with suppress(BrokenProcessPool):
            found[path] = future.result()
    return found


def _duration_or_error(path: Path) -> float | VideoError:
    try:
        return read_duration(path)
    except VideoError as error:
        return error
