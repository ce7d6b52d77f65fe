"""Sampled frames kept on disk: an epoch or a run after the first one decodes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from taro.cache import TensorCache
from taro.video.file import VideoFile
from taro.video.geometry import PatchGeometry
from taro.video.load import Video, VideoSettings

VERSION = 3  # to be raised when the code takes other frames than before with the same settings


def video_key(
    kind: str, path: str, clip: tuple[float, float] | None, settings: VideoSettings, geometry: PatchGeometry, **more: str
) -> str:
    """Text with all that decides what `kind` holds: the arguments, and what of the file's state is in `more`."""
    values = asdict(settings)
    del values["timeout"]  # decides whether there are frames, not which
    parts = {"kind": kind, "version": VERSION, "video": os.path.abspath(path), "clip": clip, "settings": values}
    return json.dumps(parts | {"geometry": asdict(geometry)} | more, sort_keys=True)


def file_identity(path: str) -> str | None:
    """Size and time of a file, which differ once it is another; None where there is none to be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: no path at all
        return None
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"


class FrameCache:
    """Videos as `load_video` makes them."""

    def __init__(self, cache: TensorCache) -> None:
        self.cache = cache

    def video(
        self,
        path: str,
        clip: tuple[float, float] | None,
        settings: VideoSettings,
        geometry: PatchGeometry,
        load: Callable[[], Video],
    ) -> Video:
        """The kept video, or else the one that `load` gives, which is kept. What `load` raises is not.

        Raises VideoError where the system does not answer about the file within `settings.timeout`.
        """
        # Before the file is read: what changes meanwhile is noticed next time.
        identity = VideoFile(Path(path), settings.timeout).within_limit(partial(file_identity, path))
        if identity is None:
            return load()
        key = video_key("frames", path, clip, settings, geometry, file=identity)
        kept = self.cache.get(key)
        if kept is not None:
            return Video(kept["frames"], kept["timestamps"], kept["fps"].item(), kept["duration"].item())
        video = load()
        numbers = {name: torch.tensor(getattr(video, name), dtype=torch.float64) for name in ("fps", "duration")}
        self.cache.put(key, {"frames": video.frames, "timestamps": video.timestamps} | numbers)
        return video
