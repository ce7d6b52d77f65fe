"""The distinct videos of a samples file, and their overlapping windows, which are decoded ahead in worker processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from taro.data.samples import Sample
from taro.models.prompt import PromptError
from taro.prompts import format_seconds
from taro.spans import Span
from taro.video.file import VideoFile
from taro.video.geometry import PatchGeometry
from taro.video.index import read_index
from taro.video.load import Video, VideoError, VideoSettings, load_video


@dataclass(frozen=True)
class SourceVideo:
    """One video, or one clip of it, whatever the number of samples about it."""

    id: str  # path below the root of the videos, and `@start-end` for a clip
    path: str
    clip: Span | None  # in seconds of the file's clock; None for all of it
    duration: float  # seconds, the shortest that one of its samples states
    names: tuple[str, ...]  # that captions may be filed under: the id first, then others that may stand for several videos


@dataclass(frozen=True)
class Window:
    """A part of a video, `start` to `end` in seconds of the clip's own clock."""

    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{format_seconds(self.start)}s to {format_seconds(self.end)}s"


@dataclass(frozen=True, eq=False)
class WindowRequest:
    """What a model is asked about one of the `count` windows of a video, which cover `duration` seconds of it; or the `failure`
    of the video, after which it has no further windows."""

    video: SourceVideo
    duration: float
    window: Window | None = None
    count: int = 0
    content: Any = None
    failure: str | None = None


def video_id(sample: Sample, root: str | os.PathLike[str]) -> str:
    """The id of the sample's video: the same wherever the videos are, as long as they lie alike below `root`."""
    path = Path(os.path.relpath(sample.video, root)).as_posix()
    return path if sample.clip is None else f"{path}@{sample.clip[0]:g}-{sample.clip[1]:g}"


def source_videos(samples: Iterable[Sample], root: str | os.PathLike[str]) -> list[SourceVideo]:
    """Each distinct video once, in the order in which the samples name them first."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(video_id(sample, root), []).append(sample)
    videos = []
    for id, group in groups.items():
        path = Path(os.path.relpath(group[0].video, root))
        stated = [sample.extra["vid"] for sample in group if isinstance(sample.extra.get("vid"), str)]
        names = dict.fromkeys([id, path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem, *stated])
        duration = min(sample.duration for sample in group)
        videos.append(SourceVideo(id, group[0].video, group[0].clip, duration, tuple(names)))
    return videos


def cut_windows(duration: float, length: float, overlap: float) -> list[Window]:
    """The fewest equally long windows that cover [0, duration] and overlap their neighbours by `overlap`, all in seconds.

    None is longer than `length`, and none is a short rest: 40 s in windows of 30 s that overlap by 5 s are 0 to 22.5 and 17.5
    to 40.
    """
    count = max(1, math.ceil((duration - overlap) / (length - overlap) - 1e-9))
    if count == 1:
        return [Window(0.0, duration)]
    step = (duration - overlap) / count
    return [Window(k * step, duration if k == count - 1 else k * step + step + overlap) for k in range(count)]


@dataclass(frozen=True, eq=False)
class WindowReader(IterableDataset):
    """The windows of all videos, each video's in order of time; with several workers those of several videos mixed. Each
    worker reads its own videos, one window at a time: a long video is never in memory as a whole.

    Args:
        videos: whose windows are read.
        length, overlap: of windows, in seconds.
        settings, geometry: of their frames.
        write: makes what is asked about a window, of its length as text and its frames.
    """

    videos: Sequence[SourceVideo]
    length: float
    overlap: float
    settings: VideoSettings
    geometry: PatchGeometry
    write: Callable[[str, Video], Any]

    def read(self, workers: int) -> Iterator[WindowRequest]:
        """All of them, read ahead by so many processes."""
        yield from DataLoader(self, batch_size=None, collate_fn=_same, num_workers=workers)

    def __iter__(self) -> Iterator[WindowRequest]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for video in self.videos[first::step]:
            try:
                yield from self._read(video)
            except VideoError as error:
                yield WindowRequest(video, video.duration, failure=f"VideoError: {error}")

    def _read(self, video: SourceVideo) -> Iterator[WindowRequest]:
        file = VideoFile(Path(video.path), self.settings.timeout)
        index = file.within_limit(lambda: read_index(file, video.clip))
        duration = min(index.duration, video.duration)  # what is stated may be longer than the file, or not known (nan)
        windows = cut_windows(duration, self.length, self.overlap)
        origin = 0.0 if video.clip is None else video.clip[0]
        for window in windows:
            clip = (origin + window.start, origin + window.end)
            frames = load_video(video.path, clip=clip, settings=self.settings, geometry=self.geometry)
            try:
                content = self.write(format_seconds(window.length), frames)
            except PromptError as error:
                yield WindowRequest(video, duration, failure=f"{window}: PromptError: {error}")
                return
            yield WindowRequest(video, duration, window, len(windows), content)


def _same(request: WindowRequest) -> WindowRequest:
    return request
