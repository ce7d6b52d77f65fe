"""Frames as endpoints take them: JPEG pictures or an MP4 video, in data URLs. F frames, H and W pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from taro.video.load import Video

JPEG_SCALE = 3  # quantiser of mjpeg, 1 (best) to 31
VIDEO_QUALITY = 18  # x264's crf


def jpeg_url(picture: np.ndarray) -> str:
    """A data URL of one picture, (H, W, 3) uint8 RGB."""
    options = {"qmin": str(JPEG_SCALE), "qmax": str(JPEG_SCALE)}
    return _data_url("image/jpeg", _encode(picture[None], "mjpeg", "mjpeg", Fraction(1), "yuvj420p", options))


def mp4_url(frames: np.ndarray, fps: float) -> str:
    """A data URL of an H.264 video, frames (F, H, W, 3) uint8 RGB with even H and W."""
    rate = Fraction(fps).limit_denominator(1000)
    return _data_url("video/mp4", _encode(frames, "mp4", "libx264", rate, "yuv420p", {"crf": str(VIDEO_QUALITY)}))


def rgb_frames(video: Video) -> np.ndarray:
    """(F, H, W, 3) uint8."""
    return np.ascontiguousarray(video.frames.permute(0, 2, 3, 1).numpy())


def _encode(
    frames: Sequence[np.ndarray] | np.ndarray, container: str, codec: str, rate: Fraction, pixels: str, options: dict[str, str]
) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.thread_count = 1
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
