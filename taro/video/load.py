"""Videos as the model sees them: which frames are taken, at which times, and at which size.

The counts and sizes follow qwen-vl-utils 0.0.14, with which Qwen's models and the published results were made.
Shapes: F frames, H x W pixels. Times are seconds in the clip's own clock, which starts at the first picture of the
video, or at the start of the clip that is cut from it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from taro.ranges import PositiveFloat, PositiveInt
from taro.video.decode import BACKENDS
from taro.video.file import VideoError, VideoFile
from taro.video.geometry import PatchGeometry, resize_frames
from taro.video.index import PictureIndex, read_index

__all__ = ["Video", "VideoError", "VideoSettings", "load_video", "sample_frame_count", "smart_resize"]

MAX_TOKENS_PER_FRAME = 768  # as qwen-vl-utils
MAX_ASPECT_RATIO = 200  # as qwen-vl-utils
MINIMUM_SLACK = 1.05  # as qwen-vl-utils: the cap per frame stays this far above the minimum per frame


@dataclass(frozen=True)
class VideoSettings:
    """All that decides which pixels of a video the model sees; training, evaluation and demo share one."""

    fps: PositiveFloat = 2.0
    """Frames taken per second of video, as long as `max_frames` allows it."""
    max_frames: PositiveInt = 768
    """Most frames of a video. A longer one is sampled at a lower rate; `Video.fps` has the real one."""
    min_frames: PositiveInt = 4
    """Fewest frames of a video that has as many."""
    max_tokens: PositiveInt = 3584
    """Most visual tokens of a video, after merging: more frames make each of them smaller."""
    min_tokens_per_frame: PositiveInt = 4
    """Pictures smaller than this many tokens (of factor x factor pixels) are enlarged, none is shrunk far below."""
    backend: Literal["pyav", "decord"] = "pyav"
    """What decodes: pyav or decord."""
    resize: Literal["swscale", "torch"] = "swscale"
    """What resizes: swscale, before the conversion to RGB, or torch, after it, as qwen-vl-utils does: slower. Colours
    differ by about one level, edges by more. decord's pictures are always resized by torch."""
    timeout: PositiveFloat = 120.0
    """Seconds that a video may take, so that one whose reading hangs fails alone. It decides whether there are frames, never
    which; a long video on a slow machine may need more."""

    def __post_init__(self) -> None:
        if not 2 <= self.max_frames >= self.min_frames:
            raise ValueError(f"max_frames={self.max_frames} must be at least 2, and at least min_frames={self.min_frames}")
        if not (0 < self.fps < math.inf and 0 < self.timeout < math.inf):
            raise ValueError(f"fps={self.fps} and timeout={self.timeout} must be finite numbers above 0")
        if min(self.min_frames, self.max_tokens, self.min_tokens_per_frame) < 1:
            raise ValueError(
                f"min_frames={self.min_frames}, max_tokens={self.max_tokens} and min_tokens_per_frame="
                f"{self.min_tokens_per_frame} must be at least 1"
            )
        for name, allowed in (("backend", ("pyav", "decord")), ("resize", ("swscale", "torch"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")


@dataclass(frozen=True, eq=False)
class Video:
    """A clip, sampled and resized; made by `load_video`."""

    frames: Tensor  # (F, 3, H, W) uint8 RGB, upright; F a multiple of temporal_patch_size, H and W of the geometry's factor
    timestamps: Tensor  # (F,) float64 seconds, ascending: when the frames are shown. Equal where one had to be repeated
    fps: float  # frames per second of clip, F / duration: what M-RoPE must get
    duration: float  # seconds of the clip


def load_video(
    path: str | Path, *, clip: tuple[float, float] | None, settings: VideoSettings, geometry: PatchGeometry
) -> Video:
    """Sample frames evenly from a video, or from the part `clip` (start, end in seconds) of it, and resize them.

    At a constant frame rate frames are chosen by number, as qwen-vl-utils does, the first and the last among them. At a
    variable one evenly spaced times, from the first to the last picture, take the picture nearest in time each. A clip
    that ends after the video is cut at the video's end. Holds one picture of native size at a time.

    Raises VideoError where the file is missing, not a file, empty, truncated or damaged (with pyav: where a frame taken
    needs it), has no pictures, none within the clip, or takes longer than `settings.timeout`.
    """
    path = Path(path)
    if clip is not None and not (math.isfinite(clip[1]) and 0 <= clip[0] < clip[1]):
        raise VideoError(path, f"clip {clip[0]} to {clip[1]} s is not within a video: need 0 <= start < end")
    file = VideoFile(path, settings.timeout)

    def read() -> Video:
        index = read_index(file, None if clip is None else (float(clip[0]), float(clip[1])))
        places, duration = _choose_places(index, 0.0 if clip is None else clip[0], clip is None, settings, geometry)
        return Video(
            frames=_read_frames(file, index, places, settings, geometry),
            timestamps=torch.from_numpy(index.seconds())[places],
            fps=len(places) / duration,
            duration=duration,
        )

    return file.within_limit(read)


def sample_frame_count(duration_frames: int, source_fps: float, settings: VideoSettings, temporal_patch_size: int) -> int:
    """Number of frames to take from a clip of `duration_frames` pictures: a multiple of temporal_patch_size.

    qwen-vl-utils' `smart_nframes`, but a clip of less than temporal_patch_size pictures, which that refuses, gives
    temporal_patch_size: its pictures are repeated. Raises ValueError where max_frames is below temporal_patch_size.
    """
    factor = temporal_patch_size
    if settings.max_frames < factor:
        raise ValueError(f"max_frames={settings.max_frames}: must be at least the model's {factor} frames per patch")
    least = math.ceil(settings.min_frames / factor) * factor
    most = math.floor(settings.max_frames / factor) * factor
    count = duration_frames / source_fps * settings.fps
    count = min(max(count, least), most, duration_frames)
    return max(math.floor(count / factor) * factor, factor)


def smart_resize(height: int, width: int, *, frames: int, settings: VideoSettings, geometry: PatchGeometry) -> tuple[int, int]:
    """Size (height, width) in pixels for each of `frames` frames; sides are multiples of the geometry's factor.

    qwen-vl-utils' arithmetic: the tokens of the video are shared out evenly, each frame keeps its aspect ratio about.
    Where the minimum per frame and `max_tokens` contradict each other, the minimum wins. A side never falls below one
    token, where qwen-vl-utils would return 0. Raises ValueError for sides that differ by more than a factor of 200.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"{height} x {width} pixels: one side is more than {MAX_ASPECT_RATIO} times the other")
    factor = geometry.factor
    least = settings.min_tokens_per_frame * factor**2
    share = settings.max_tokens * factor**2 / frames * geometry.temporal_patch_size
    most = max(min(MAX_TOKENS_PER_FRAME * factor**2, share), int(least * MINIMUM_SLACK))
    rounded = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if rounded[0] * rounded[1] > most:
        scale = math.sqrt(height * width / most)
        rounded = [max(1, math.floor(side / scale / factor)) * factor for side in (height, width)]
        longest = max(1, math.floor(most / min(rounded) / factor)) * factor  # bites if the other side was held at 1
        rounded = [min(side, longest) for side in rounded]
    elif rounded[0] * rounded[1] < least:
        scale = math.sqrt(least / (height * width))
        rounded = [math.ceil(side * scale / factor) * factor for side in (height, width)]
    return rounded[0], rounded[1]


def _choose_places(
    index: PictureIndex, clip_start: float, whole: bool, settings: VideoSettings, geometry: PatchGeometry
) -> tuple[Tensor, float]:
    """Places in the index of the frames to take (F,) int64, and the clip's duration in seconds."""
    times = index.seconds()  # (N,)
    total, duration = len(times), index.duration
    rate = _constant_rate(times, index.rate)
    if rate is not None and whole:
        duration = total / rate  # Matroska rounds times to milliseconds
    count = sample_frame_count(total, rate or total / duration, settings, geometry.temporal_patch_size)
    if rate is None:
        return torch.from_numpy(_nearest(times, np.linspace(times[0], times[-1], count))), duration
    # Numbers count from the video's start, not the clip's: halves round to even numbers.
    first = round((clip_start + times[0]) * rate)
    last = first + total - 1
    return torch.linspace(first, last, count).round().long().clamp(first, last) - first, duration


def _nearest(times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Places of the times (N,), ascending, nearest to the targets (F,): (F,) int64; of two equally near, the first."""
    after = np.searchsorted(times, targets).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    return np.where(targets - times[before] <= times[after] - targets, before, after)


def _constant_rate(times: np.ndarray, stated: float | None) -> float | None:
    """Pictures per second where the times (N,) keep within half a picture of an even grid, else None.

    The rate that the container states is exact where it fits; times may be rounded.
    """
    total = len(times)
    if total == 1:
        return stated
    step = (times[-1] - times[0]) / (total - 1)
    if step <= 0 or np.abs(times - np.linspace(times[0], times[-1], total)).max() >= step / 2:
        return None
    fits = stated is not None and abs(stated * step - 1) * total < 0.5
    return stated if fits else 1 / step


def _read_frames(
    file: VideoFile, index: PictureIndex, places: Tensor, settings: VideoSettings, geometry: PatchGeometry
) -> Tensor:
    """The pictures at `places` (F,), ascending, resized: (F, 3, H, W) uint8."""
    size = None

    def scale(height: int, width: int) -> tuple[int, int]:
        nonlocal size  # the first picture's counts for all
        try:
            size = size or smart_resize(height, width, frames=len(places), settings=settings, geometry=geometry)
        except ValueError as error:
            raise file.error(str(error)) from error
        return size

    frames = None
    decode = BACKENDS[settings.backend]
    for place, picture in decode(file, index, places.unique().tolist(), scale if settings.resize == "swscale" else None):
        image = torch.from_numpy(picture).permute(2, 0, 1)[None]  # (1, 3, H, W)
        height, width = scale(*image.shape[-2:])
        if frames is None:
            frames = torch.empty(len(places), 3, height, width, dtype=torch.uint8)
        frames[places == place] = resize_frames(image, height, width)
    return frames
