"""A strip of a video's frames, as one small picture. F frames, H x W pixels."""

from __future__ import annotations

import io
import math

import av
import numpy as np
import torch
from torch import Tensor

from taro.spans import Span
from taro.video.geometry import PatchGeometry, resize_frames
from taro.video.load import Video, VideoError, VideoSettings, load_video

FRAMES = 6  # in a strip
GEOMETRY = PatchGeometry(patch_size=8, merge_size=1, temporal_patch_size=1)  # sides are multiples of 8 pixels
TOKENS = 160  # of a frame, of 8 x 8 pixels: 120 x 80 or so
QUALITY = 6  # of the JPEG, 2 is best and 31 worst: about 10 kB a strip
TIMEOUT = 30.0  # seconds; a strip is not worth more

__all__ = ["VideoError", "load_strip", "make_strip"]


def load_strip(video: str, clip: Span | None = None, frames: int = FRAMES) -> bytes:
    """The frames in the middle of `frames` equal parts of a video or clip, side by side: a JPEG.

    Raises:
        VideoError: the video can't be read.
    """
    fine = 2 * frames + 1  # evenly spaced from first to last: every second one is the middle of a part
    settings = VideoSettings(
        fps=2.0, max_frames=fine, min_frames=fine, max_tokens=fine * TOKENS, resize="swscale", timeout=TIMEOUT
    )
    return make_strip(load_video(video, clip=clip, settings=settings, geometry=GEOMETRY), frames)


def make_strip(video: Video, frames: int = FRAMES) -> bytes:
    """The same of a video that is loaded already: its frames nearest to the middles, small."""
    middles = (torch.arange(frames) + 0.5) / frames * video.duration
    chosen = (video.timestamps[None] - middles[:, None]).abs().argmin(1)  # (frames,)
    pictures = video.frames[chosen].cpu()  # (frames, 3, H, W)
    height, width = pictures.shape[-2:]
    scale = math.sqrt(TOKENS * GEOMETRY.factor**2 / (height * width))
    if scale < 1:
        sides = (max(1, round(scale * side / GEOMETRY.factor)) * GEOMETRY.factor for side in (height, width))
        pictures = resize_frames(pictures, *sides)
    return encode_jpeg(torch.cat(list(pictures), dim=-1))


def encode_jpeg(picture: Tensor) -> bytes:
    """(3, H, W) uint8 RGB as a JPEG."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()), format="rgb24")
    file = io.BytesIO()
    with av.open(file, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuvj420p"
        stream.options = {"qmin": str(QUALITY), "qmax": str(QUALITY)}
        for packet in (*stream.encode(frame.reformat(format="yuvj420p")), *stream.encode()):
            container.mux(packet)
    return file.getvalue()


def decode_jpeg(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    with av.open(io.BytesIO(content), format="mjpeg") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")
