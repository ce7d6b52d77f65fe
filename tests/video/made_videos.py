"""Videos whose pictures say which they are."""

from fractions import Fraction

import av
import numpy as np
import pytest

from taro.video.geometry import PatchGeometry
from taro.video.load import VideoSettings, load_video

BACKENDS = ["pyav", "decord"]
GEOMETRY = PatchGeometry()
TICKS = 1000  # pts per second of the videos made here


def write_video(path, milliseconds, *, size=(64, 48), codec="libx264", rotation=None, options=None, reordered=False):
    """A video whose picture number k has the grey level 4 * k at its lower right and white at its upper left."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.gop_size = 10
        if codec == "libx264":
            stream.options = {"x264-params": "bframes=2:qp=4"}
        else:
            stream.bit_rate = 2_000_000
            stream.codec_context.max_b_frames = 2 if reordered else 0
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, pts in enumerate(milliseconds):
            picture = np.full((size[1], size[0], 3), 4 * number, np.uint8)
            picture[: size[1] // 2, : size[0] // 2] = 255
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def steady(count, fps=25, start=0):
    return [start + round(number * TICKS / fps) for number in range(count)]


def load(path, clip=None, geometry=GEOMETRY, backend="pyav", **settings):
    if backend == "decord":
        pytest.importorskip("decord")
    return load_video(path, clip=clip, settings=VideoSettings(backend=backend, **settings), geometry=geometry)


def numbers(video):
    """Which pictures the frames are, by their grey level."""
    corner = video.frames[:, :, -8:, -8:].float().mean(dim=(1, 2, 3))
    return (corner / 4).round().long().tolist()


def overwrite(path, numbers):
    """Overwrite the later half of these packets, in the order of decoding."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in (packets[number] for number in numbers):
        half = packet.size // 2
        data[packet.pos + packet.size - half : packet.pos + packet.size] = b"\xff" * half
    path.write_bytes(data)
