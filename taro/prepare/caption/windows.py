"""Overlapping windows of a video, and the frames of each, decoded ahead in worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from taro.prepare.caption.videos import SourceVideo
from taro.video.file import VideoFile
from taro.video.geometry import PatchGeometry
from taro.video.index import read_index
from taro.video.load import Video, VideoError, VideoSettings, load_video


@dataclass(frozen=True)
class Window:
    """A part of a video, `start` to `end` in seconds of the clip's own clock."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """The window's length in seconds."""
        return self.end - self.start


@dataclass(frozen=True)
class WindowTask:
    """One window to be captioned.

    Attributes:
        video: what it is a part of.
        window: which part.
        count: windows of this video.
        duration: seconds of this video that the windows cover.
    """

    video: SourceVideo
    window: Window
    count: int
    duration: float


@dataclass(frozen=True)
class ReadWindow:
    """The frames of a window, made by `read_windows`; or `failure`, after which the video has no further windows."""

    video: SourceVideo
    task: WindowTask | None = None
    frames: Video | None = None
    failure: str | None = None


def cut_windows(duration: float, length: float, overlap: float) -> list[Window]:
    """The fewest equally long windows that cover [0, duration] and overlap their neighbours by `overlap`, all in seconds.

    None is longer than `length`, and none is a short rest: 40 s in windows of 30 s that overlap by 5 s are 0 to 22.5 and 17.5
    to 40. Raises ValueError unless 0 <= overlap < length and duration > 0.
    """
    if not (0 <= overlap < length and duration > 0):
        raise ValueError(f"windows need 0 <= overlap < length and a duration above 0, got {overlap}, {length} and {duration}")
    count = max(1, math.ceil((duration - overlap) / (length - overlap) - 1e-9))
    if count == 1:
        return [Window(0.0, duration)]
    step = (duration - overlap) / count
    return [Window(k * step, duration if k == count - 1 else k * step + step + overlap) for k in range(count)]


def read_windows(
    videos: Sequence[SourceVideo],
    *,
    length: float,
    overlap: float,
    settings: VideoSettings,
    geometry: PatchGeometry,
    workers: int,
) -> Iterator[ReadWindow]:
    """The windows of all videos, each video's in order of time; with several `workers` those of several videos mixed."""
    dataset = _Windows(videos, length, overlap, settings, geometry)
    yield from DataLoader(dataset, batch_size=None, collate_fn=_same, num_workers=workers)


class _Windows(IterableDataset):
    """Each worker reads its own videos, one window at a time: a long video is never in memory as a whole."""

    def __init__(
        self,
        videos: Sequence[SourceVideo],
        length: float,
        overlap: float,
        settings: VideoSettings,
        geometry: PatchGeometry,
    ) -> None:
        self.videos, self.length, self.overlap = list(videos), length, overlap
        self.settings, self.geometry = settings, geometry

    def __iter__(self) -> Iterator[ReadWindow]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for video in self.videos[first::step]:
            try:
                yield from self._read(video)
            except VideoError as error:
                yield ReadWindow(video, failure=f"VideoError: {error}")

    def _read(self, video: SourceVideo) -> Iterator[ReadWindow]:
        file = VideoFile(Path(video.path), self.settings.timeout)
        index = file.within_limit(lambda: read_index(file, video.clip))
        duration = min(index.duration, video.duration)  # what is stated may be longer than the file, or not known (nan)
        windows = cut_windows(duration, self.length, self.overlap)
        origin = 0.0 if video.clip is None else video.clip[0]
        for window in windows:
            frames = load_video(
                video.path,
                clip=(origin + window.start, origin + window.end),
                settings=self.settings,
                geometry=self.geometry,
            )
            yield ReadWindow(video, WindowTask(video, window, len(windows), duration), frames)


def _same(window: ReadWindow) -> ReadWindow:
    return window
