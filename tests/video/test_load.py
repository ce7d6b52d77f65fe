"""Videos on disk to frames: real files, made with PyAV, read by both backends."""

import pickle
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from taro.video import decode
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoError, VideoSettings, load_video, sample_frame_count, smart_resize

GEOMETRY = PatchGeometry()
REAL_VIDEO = Path(__file__).parents[3] / "shared" / "videos" / "OHOFG.mp4"
BACKENDS = ["pyav", "decord"]
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


# Counts and sizes ------------------------------------------------------------------------------------------------

# From qwen-vl-utils 0.0.14: pictures, their fps, settings fps, max_frames, min_frames -> smart_nframes.
COUNTS = [
    (250, 25.0, 2.0, 768, 4, 20),
    (250, 25.0, 1.0, 64, 5, 10),
    (250, 25.0, 4.0, 31, 8, 30),
    (335, 9.532888465204957, 2.0, 768, 4, 70),
    (335, 9.532888465204957, 1.0, 64, 5, 34),
    (335, 9.532888465204957, 4.0, 31, 8, 30),
    (900, 29.97002997002997, 2.0, 768, 4, 60),
    (900, 29.97002997002997, 1.0, 64, 5, 30),
    (900, 29.97002997002997, 4.0, 31, 8, 30),
    (10, 25.0, 2.0, 768, 4, 4),
    (10, 25.0, 1.0, 64, 5, 6),
    (10, 25.0, 4.0, 31, 8, 8),
    (3, 25.0, 2.0, 768, 4, 2),
    (3, 25.0, 1.0, 64, 5, 2),
    (3, 25.0, 4.0, 31, 8, 2),
    (2, 25.0, 2.0, 768, 4, 2),
    (2, 25.0, 1.0, 64, 5, 2),
    (2, 25.0, 4.0, 31, 8, 2),
    (20000, 25.0, 2.0, 768, 4, 768),
    (20000, 25.0, 1.0, 64, 5, 64),
    (20000, 25.0, 4.0, 31, 8, 30),
    (54000, 30.0, 2.0, 768, 4, 768),
    (54000, 30.0, 1.0, 64, 5, 64),
    (54000, 30.0, 4.0, 31, 8, 30),
    (60, 60.0, 2.0, 768, 4, 4),
    (60, 60.0, 1.0, 64, 5, 6),
    (60, 60.0, 4.0, 31, 8, 8),
    (7, 1.0, 2.0, 768, 4, 6),
    (7, 1.0, 1.0, 64, 5, 6),
    (7, 1.0, 4.0, 31, 8, 6),
    (299, 29.97, 2.0, 768, 4, 18),
    (299, 29.97, 1.0, 64, 5, 8),
    (299, 29.97, 4.0, 31, 8, 30),
    (76, 25.0, 2.0, 768, 4, 6),
    (76, 25.0, 1.0, 64, 5, 6),
    (76, 25.0, 4.0, 31, 8, 12),
    (101, 10.0, 2.0, 768, 4, 20),
    (101, 10.0, 1.0, 64, 5, 10),
    (101, 10.0, 4.0, 31, 8, 30),
    (11520, 30.0, 2.0, 768, 4, 768),
    (11520, 30.0, 1.0, 64, 5, 64),
    (11520, 30.0, 4.0, 31, 8, 30),
]

# From qwen-vl-utils 0.0.14: height, width, frames, patch_size, total and minimal tokens -> size that fetch_video takes.
SIZES = [
    (360, 640, 4, 14, 3584, 4, (364, 644)),
    (360, 640, 4, 16, 4096, 16, (352, 640)),
    (360, 640, 4, 14, 16384, 128, (364, 644)),
    (360, 640, 60, 14, 3584, 4, (224, 392)),
    (360, 640, 60, 16, 4096, 16, (256, 480)),
    (360, 640, 60, 14, 16384, 128, (364, 644)),
    (360, 640, 140, 14, 3584, 4, (140, 252)),
    (360, 640, 140, 16, 4096, 16, (160, 320)),
    (360, 640, 140, 14, 16384, 128, (308, 560)),
    (360, 640, 768, 14, 3584, 4, (56, 112)),
    (360, 640, 768, 16, 4096, 16, (96, 160)),
    (360, 640, 768, 14, 16384, 128, (224, 420)),
    (1080, 1920, 4, 14, 3584, 4, (560, 1008)),
    (1080, 1920, 4, 16, 4096, 16, (640, 1152)),
    (1080, 1920, 4, 14, 16384, 128, (560, 1008)),
    (1080, 1920, 60, 14, 3584, 4, (224, 392)),
    (1080, 1920, 60, 16, 4096, 16, (256, 480)),
    (1080, 1920, 60, 14, 16384, 128, (476, 868)),
    (1080, 1920, 140, 14, 3584, 4, (140, 252)),
    (1080, 1920, 140, 16, 4096, 16, (160, 320)),
    (1080, 1920, 140, 14, 16384, 128, (308, 560)),
    (1080, 1920, 768, 14, 3584, 4, (56, 112)),
    (1080, 1920, 768, 16, 4096, 16, (96, 160)),
    (1080, 1920, 768, 14, 16384, 128, (224, 420)),
    (41, 63, 4, 14, 3584, 4, (56, 84)),
    (41, 63, 4, 16, 4096, 16, (128, 160)),
    (41, 63, 4, 14, 16384, 128, (280, 420)),
    (41, 63, 60, 14, 3584, 4, (56, 84)),
    (41, 63, 60, 16, 4096, 16, (128, 160)),
    (41, 63, 60, 14, 16384, 128, (280, 420)),
    (41, 63, 140, 14, 3584, 4, (56, 84)),
    (41, 63, 140, 16, 4096, 16, (128, 160)),
    (41, 63, 140, 14, 16384, 128, (280, 420)),
    (41, 63, 768, 14, 3584, 4, (56, 84)),
    (41, 63, 768, 16, 4096, 16, (128, 160)),
    (41, 63, 768, 14, 16384, 128, (280, 420)),
    (20, 20, 4, 14, 3584, 4, (56, 56)),
    (20, 20, 4, 16, 4096, 16, (128, 128)),
    (20, 20, 4, 14, 16384, 128, (336, 336)),
    (20, 20, 60, 14, 3584, 4, (56, 56)),
    (20, 20, 60, 16, 4096, 16, (128, 128)),
    (20, 20, 60, 14, 16384, 128, (336, 336)),
    (20, 20, 140, 14, 3584, 4, (56, 56)),
    (20, 20, 140, 16, 4096, 16, (128, 128)),
    (20, 20, 140, 14, 16384, 128, (336, 336)),
    (20, 20, 768, 14, 3584, 4, (56, 56)),
    (20, 20, 768, 16, 4096, 16, (128, 128)),
    (20, 20, 768, 14, 16384, 128, (336, 336)),
    (100, 3000, 4, 14, 3584, 4, (112, 2996)),
    (100, 3000, 4, 16, 4096, 16, (96, 3008)),
    (100, 3000, 4, 14, 16384, 128, (112, 2996)),
    (100, 3000, 60, 14, 3584, 4, (28, 1652)),
    (100, 3000, 60, 16, 4096, 16, (64, 2048)),
    (100, 3000, 60, 14, 16384, 128, (112, 2996)),
    (100, 3000, 140, 14, 3584, 4, (28, 1092)),
    (100, 3000, 140, 16, 4096, 16, (32, 1312)),
    (100, 3000, 140, 14, 16384, 128, (56, 2324)),
    (100, 3000, 768, 14, 16384, 128, (56, 1764)),
]


@pytest.mark.parametrize(("total", "source_fps", "fps", "max_frames", "min_frames", "expected"), COUNTS)
def test_frame_count_is_qwens(total, source_fps, fps, max_frames, min_frames, expected):
    settings = VideoSettings(fps=fps, max_frames=max_frames, min_frames=min_frames)
    assert sample_frame_count(total, source_fps, settings, 2) == expected


@pytest.mark.parametrize(("height", "width", "frames", "patch_size", "max_tokens", "min_tokens", "expected"), SIZES)
def test_size_is_qwens(height, width, frames, patch_size, max_tokens, min_tokens, expected):
    settings = VideoSettings(max_tokens=max_tokens, min_tokens_per_frame=min_tokens)
    geometry = PatchGeometry(patch_size=patch_size)
    assert smart_resize(height, width, frames=frames, settings=settings, geometry=geometry) == expected


def test_a_single_picture_still_fills_a_temporal_patch():
    assert sample_frame_count(1, 25.0, VideoSettings(), 2) == 2


def test_a_long_strip_keeps_a_side_of_one_token_and_its_budget():
    # qwen-vl-utils returns a height of 0 here.
    assert smart_resize(100, 3000, frames=768, settings=VideoSettings(), geometry=GEOMETRY) == (28, 252)


def test_extreme_aspect_ratio_is_refused():
    with pytest.raises(ValueError, match="more than 200 times"):
        smart_resize(10, 2010, frames=4, settings=VideoSettings(), geometry=GEOMETRY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fps": 0}, "fps=0: must be a finite number above 0"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"max_frames": 1, "min_frames": 1}, "max_frames=1: must be at least 2"),
        ({"min_frames": 0}, "min_frames=0: must be at least 1"),
        ({"max_tokens": 0}, "max_tokens=0: must be at least 1"),
        ({"min_tokens_per_frame": 0}, "min_tokens_per_frame=0: must be at least 1"),
        ({"min_frames": 9, "max_frames": 8}, "min_frames=9 is above max_frames=8: lower min_frames"),
        ({"backend": "cv2"}, "backend='cv2': must be one of decord, pyav"),
        ({"resize": "cv2"}, "resize='cv2': must be one of swscale, torch"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        VideoSettings(**wrong)


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(ValueError, match=r"fps=-1.*backend='cv2'"):
        VideoSettings(fps=-1, backend="cv2")


# Frames and times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_rate(tmp_path, backend):
    video = load(write_video(tmp_path / "v.mp4", steady(50)), backend=backend)
    expected = torch.linspace(0, 49, 4).round().long().tolist()  # 2 s at 2 fps, the first and the last included
    assert numbers(video) == expected
    assert video.timestamps.tolist() == pytest.approx([number / 25 for number in expected])
    assert video.timestamps.dtype == torch.float64
    assert (video.duration, video.fps) == (2.0, 2.0)
    assert video.frames.shape == (4, 3, 56, 56)
    assert video.frames.dtype == torch.uint8


@pytest.mark.parametrize("suffix", ["mkv", "avi", "webm"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_containers(tmp_path, suffix, backend):
    codec = {"mkv": "libx264", "avi": "mpeg4", "webm": "libvpx"}[suffix]
    path = write_video(tmp_path / f"v.{suffix}", steady(60, fps=30), codec=codec)
    video = load(path, backend=backend, fps=4)
    assert numbers(video) == torch.linspace(0, 59, len(video.frames)).round().long().tolist()
    assert torch.allclose(video.timestamps * 30, torch.tensor(numbers(video)).double(), atol=0.05)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_with_reordered_pictures(tmp_path, codec):
    # AVI stores no presentation times: what libav reports for them is missing or in the wrong order.
    path = write_video(tmp_path / "v.avi", steady(50), codec=codec, reordered=True)
    video = load(path, clip=(0.4, 1.6), fps=10)
    assert numbers(video) == torch.linspace(10, 40, 12).round().long().tolist()
    assert video.timestamps.tolist() == pytest.approx([(number - 10) / 25 for number in numbers(video)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_variable_rate_takes_the_pictures_nearest_to_even_times(tmp_path, backend):
    times = [0, 40, 80, 500, 540, 580, 1500, 1540, 3000]
    video = load(write_video(tmp_path / "v.mp4", times), backend=backend)
    targets = np.linspace(0, 3000, 6)  # 3.04 s at 2 fps
    expected = [int(np.abs(np.array(times) - target).argmin()) for target in targets]
    assert numbers(video) == expected == [0, 5, 6, 7, 8, 8]
    assert video.timestamps.tolist() == pytest.approx([times[number] / 1000 for number in expected])
    assert video.fps == pytest.approx(6 / video.duration)


@pytest.mark.parametrize("backend", BACKENDS)
def test_late_first_picture_starts_the_clock(tmp_path, backend):
    video = load(write_video(tmp_path / "v.mp4", steady(50, start=1500)), backend=backend)
    assert video.timestamps[0] == 0
    assert video.duration == pytest.approx(2.0)
    clip = load(tmp_path / "v.mp4", clip=(0.4, 1.6), backend=backend)
    assert numbers(clip)[0] == 10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("start", "end"), [(0.4, 1.2), (0.41, 1.19), (0.0, 2.0), (1.0, 9.0)])
def test_clip_has_its_own_clock(tmp_path, backend, start, end):
    video = load(write_video(tmp_path / "v.mp4", steady(50)), clip=(start, end), backend=backend, fps=8)
    first, last = -int(-start * 25 // 1), min(int(end * 25), 49)  # qwen-vl-utils: rounded inwards
    assert numbers(video) == torch.linspace(first, last, len(video.frames)).round().long().tolist()
    assert video.timestamps.tolist() == pytest.approx([number / 25 - start for number in numbers(video)])
    assert video.duration == pytest.approx(min(end, 2.0) - start)
    assert video.fps == pytest.approx(len(video.frames) / video.duration)


def test_clip_decodes_only_what_it_needs(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", steady(60))
    decoded = []
    plain = decode._decode_run

    def counting(*arguments):
        for frame in plain(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decode, "_decode_run", counting)
    video = load(path, clip=(1.6, 1.9))
    assert numbers(video)[0] == 40
    assert len(video.frames) <= len(decoded) <= 10 + 8  # one group of pictures, then the clip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "expected"), [(1, [0, 0]), (2, [0, 1]), (3, [0, 2]), (5, [0, 1, 3, 4])])
def test_few_pictures(tmp_path, backend, count, expected):
    video = load(write_video(tmp_path / "v.mp4", steady(count)), backend=backend)
    assert numbers(video) == expected
    assert video.timestamps.tolist() == pytest.approx([number / 25 for number in expected])
    assert video.fps == pytest.approx(len(expected) / (count / 25))


def test_frame_cap_lowers_the_real_rate(tmp_path):
    video = load(write_video(tmp_path / "v.mp4", steady(50)), fps=10, max_frames=5)
    assert numbers(video) == [0, 16, 33, 49]
    assert video.fps == 2.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_pictures_come_upright(tmp_path, backend, rotation):
    plain = load(write_video(tmp_path / "plain.mp4", steady(10), size=(112, 84)))
    turned = load(write_video(tmp_path / "v.mp4", steady(10), size=(112, 84), rotation=rotation), backend=backend)
    assert torch.equal(turned.frames, torch.rot90(plain.frames, rotation // 90, dims=(2, 3)))


@pytest.mark.parametrize("resize", ["swscale", "torch"])
@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_pictures_are_resized_upright(tmp_path, resize, rotation):
    plain = load(write_video(tmp_path / "plain.mp4", steady(10), size=(160, 60)), resize=resize)
    turned = load(write_video(tmp_path / "v.mp4", steady(10), size=(160, 60), rotation=rotation), resize=resize)
    assert plain.frames.shape[-2:] == (56, 168)
    expected = torch.rot90(plain.frames, rotation // 90, dims=(2, 3))
    assert turned.frames.shape == expected.shape
    assert (turned.frames.int() - expected.int()).abs().max() <= 1


def test_narrow_rotated_pictures_are_refused_by_decord(tmp_path):
    path = write_video(tmp_path / "v.mp4", steady(10), rotation=90)
    assert load(path).frames.shape[-2:] == (56, 56)
    with pytest.raises(VideoError, match="narrower than 64"):
        load(path, backend="decord")


@pytest.mark.parametrize(("size", "tolerance"), [((64, 48), 0), ((63, 42), 0), ((63, 41), 60)])
def test_backends_agree(tmp_path, size, tolerance):
    # At odd heights their versions of swscale place the colour samples of the last rows differently.
    path = write_video(tmp_path / "v.mp4", steady(50), size=size, codec="mpeg4")
    ours, theirs = (load(path, backend=backend, fps=10, resize="torch") for backend in BACKENDS)
    assert torch.equal(ours.timestamps, theirs.timestamps)
    assert (ours.fps, ours.duration) == (theirs.fps, theirs.duration)
    difference = (ours.frames.int() - theirs.frames.int()).abs()
    assert difference.max() <= tolerance
    assert difference.float().mean() <= tolerance / 20


def test_decord_resizes_with_torch(tmp_path):
    path = write_video(tmp_path / "v.mp4", steady(10))
    plain, same = (load(path, backend="decord", resize=resize).frames for resize in ("torch", "swscale"))
    assert torch.equal(plain, same)


def write_colours(path, size, *, codec="libx264", colorspace=None, color_range=None):
    """Saturated colours in waves of about 100 pixels that move, at a quality that loses next to nothing."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"qp": "1"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 20_000_000
        if colorspace is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range
        for number in range(6):
            waves = [np.sin(x / 15 + y / 40 + number), np.sin(x / 40 - y / 16), np.sin((x + y) / 20 - number)]
            picture = np.stack([127.5 + 127.5 * wave for wave in waves], axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def assert_resized_alike(path, most, mean, **settings):
    """Levels by which the two ways to resize differ; swscale's quick conversion at native size makes all darker by 1 to 2."""
    ours, plain = (load(path, resize=resize, **settings).frames.float() for resize in ("swscale", "torch"))
    assert ours.shape == plain.shape
    difference = ours - plain  # (F, 3, H, W)
    assert 0 < difference.abs().max() <= most
    assert difference.abs().mean() <= mean
    assert difference.mean(dim=(0, 2, 3)).abs().max() <= 1.8


@pytest.mark.parametrize(("max_tokens", "most"), [(16, 8), (64, 9), (1000, 15)])  # the last makes the pictures larger
@pytest.mark.parametrize(("colorspace", "color_range"), [(2, 0), (1, 1), (1, 2), (5, 1)])  # untagged, BT.709, BT.601
def test_swscale_resizes_as_torch(tmp_path, colorspace, color_range, max_tokens, most):
    path = write_colours(tmp_path / "v.mp4", (320, 240), colorspace=colorspace, color_range=color_range)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (colorspace, color_range)
    assert_resized_alike(path, most, 2.4, max_tokens=max_tokens)


@pytest.mark.parametrize("colorspace", [2, 1])
def test_pictures_of_the_right_size_are_converted_as_they_are(tmp_path, colorspace):
    path = write_colours(tmp_path / "v.mp4", (112, 84), colorspace=colorspace, color_range=1)
    with av.open(str(path)) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    for resize in ("swscale", "torch"):
        video = load(path, fps=25, resize=resize)
        assert np.array_equal(video.frames.permute(0, 2, 3, 1).numpy(), expected)


# At an odd width swscale's quick conversion takes the colours from up to two pixels away.
@pytest.mark.parametrize(
    ("size", "most", "mean"), [((161, 121), 5, 0.5), ((161, 120), 26, 3.6), ((160, 121), 12, 2), ((63, 41), 5, 0.5)]
)
def test_swscale_resizes_odd_sizes(tmp_path, size, most, mean):
    assert_resized_alike(write_colours(tmp_path / "v.mp4", size, codec="mpeg4"), most, mean)


@pytest.mark.parametrize("resize", ["swscale", "torch"])
def test_pictures_may_change_their_size(tmp_path, resize):
    path, sizes = tmp_path / "v.ts", [(64, 48), (96, 72)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        for part, size in enumerate(sizes):  # each of a second, 90000 ticks
            with av.open(str(write_video(tmp_path / f"{part}.ts", steady(25), size=size))) as reader:
                for packet in reader.demux(video=0):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + 90000 * part, packet.dts + 90000 * part
                        packet.stream = stream
                        container.mux(packet)
    with av.open(str(path)) as container:
        assert {(frame.width, frame.height) for frame in container.decode(video=0)} == set(sizes)
    video = load(path, fps=4, resize=resize)
    assert video.frames.shape == (8, 3, 56, 56)
    assert numbers(video) == [number % 25 for number in torch.linspace(0, 49, 8).round().long().tolist()]


def test_edit_list_hides_pictures(tmp_path):
    # A cut without re-encoding keeps the pictures from the keyframe on, and hides those before the cut.
    source = write_video(tmp_path / "source.mp4", steady(60))
    with av.open(str(source)) as reader, av.open(str(tmp_path / "v.mp4"), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        packets = [packet for packet in reader.demux(video=0) if packet.size]
        keyframe = [place for place, packet in enumerate(packets) if packet.is_keyframe][1]
        shift = packets[keyframe].pts + round(0.12 / packets[0].time_base)
        cut = packets[keyframe].pts / (0.04 / packets[0].time_base) + 3
        for packet in packets[keyframe:]:
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            writer.mux(packet)
    video = load(tmp_path / "v.mp4")
    assert (numbers(video)[0], numbers(video)[-1]) == (round(cut), 59)
    assert video.timestamps[0] == 0
    with pytest.raises(VideoError, match="edit list"):
        load(tmp_path / "v.mp4", backend="decord")


def test_decord_is_not_asked_for_transport_streams(tmp_path):
    path = write_video(tmp_path / "v.ts", steady(50))
    assert numbers(load(path, clip=(0.8, 1.6)))[0] == 20
    with pytest.raises(VideoError, match="mpegts"):
        load(path, backend="decord")


def test_other_geometry(tmp_path):
    geometry = PatchGeometry(patch_size=16, temporal_patch_size=4)
    video = load(write_video(tmp_path / "v.mp4", steady(50)), geometry=geometry, fps=5)
    assert len(video.frames) == 8
    assert all(side % 32 == 0 for side in video.frames.shape[-2:])


# Files that cannot be used ---------------------------------------------------------------------------------------


def missing(path):
    pass


def empty(path):
    path.touch()


def text(path):
    path.write_text("not a video\n" * 200)


def folder(path):
    path.mkdir()


def without_moov(path):
    write_video(path, steady(50))
    path.write_bytes(path.read_bytes()[:-800])


def cut_short(path):
    write_video(path, steady(50), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])


def last_picture_cut(path):
    write_video(path, steady(50), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-1])


def matroska_cut_short(path):
    write_video(path.with_suffix(".mkv"), steady(50))
    path.write_bytes(path.with_suffix(".mkv").read_bytes()[:-1200])


def overwrite(path, numbers):
    """Overwrite the later half of these packets, in the order of decoding."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in (packets[number] for number in numbers):
        half = packet.size // 2
        data[packet.pos + packet.size - half : packet.pos + packet.size] = b"\xff" * half
    path.write_bytes(data)


def garbled(path):
    # Around picture 16, which is taken: decord reports damage elsewhere only now and then.
    overwrite(write_video(path, steady(50)), range(12, 20))


def sound_only(path):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


BAD_FILES = {
    missing: "does not exist",
    empty: "is empty",
    folder: "is not a file",
    text: "cannot be decoded",
    without_moov: "cannot be decoded",
    cut_short: r"is truncated: \d+ of 50 pictures",
    last_picture_cut: "cannot be decoded|cannot read it",
    matroska_cut_short: "is truncated: its pictures end at",
    garbled: "cannot be decoded|damaged|cannot read it",
    sound_only: "has no picture stream",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", BAD_FILES, ids=lambda make: make.__name__)
def test_bad_file(tmp_path, make, backend):
    path = tmp_path / "v.mp4"
    make(path)
    with pytest.raises(VideoError, match=BAD_FILES[make]) as caught:
        load(path, backend=backend)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_a_picture_that_the_decoder_patched_up_is_damaged(tmp_path):
    path = write_video(tmp_path / "v.mp4", steady(50), codec="mpeg4")
    overwrite(path, [40])  # a keyframe
    with pytest.raises(VideoError, match=r"is damaged where the picture at 0\.00 s of the clip needs it"):
        load(path, clip=(1.6, 1.7))
    assert numbers(load(path, clip=(0.0, 1.56)))[-1] == 39


def test_a_clip_of_the_intact_part_of_a_truncated_file_loads(tmp_path):
    path = tmp_path / "v.mp4"
    cut_short(path)
    assert numbers(load(path, clip=(0.0, 0.4)))[-1] == 10
    with pytest.raises(VideoError, match="truncated"):
        load(path, clip=(0.4, 2.0))


@pytest.mark.parametrize("clip", [(-1.0, 1.0), (1.0, 1.0), (1.5, 0.5), (5.0, 6.0), (0.0, float("nan"))])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_clip_outside_of_the_video(tmp_path, clip, suffix):
    with pytest.raises(VideoError, match="clip"):
        load(write_video(tmp_path / f"v.{suffix}", steady(50)), clip=clip)


def test_too_narrow_pictures(tmp_path):
    path = write_video(tmp_path / "v.mp4", steady(4), size=(1024, 4), codec="mpeg4")
    with pytest.raises(VideoError, match="more than 200 times"):
        load(path)


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is empty")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "is empty", "a.mp4: is empty")


# A real video ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_VIDEO.exists(), reason=f"needs the Charades video {REAL_VIDEO.name}, not in this checkout")
@pytest.mark.parametrize("clip", [None, (10.0, 20.0)])
def test_real_video(clip):
    ours, theirs = (load(REAL_VIDEO, clip=clip, backend=backend, resize="torch") for backend in BACKENDS)
    assert torch.equal(ours.frames, theirs.frames)
    assert torch.equal(ours.timestamps, theirs.timestamps)
    if clip is None:
        assert ours.frames.shape == (70, 3, 196, 364)
        assert ours.duration == pytest.approx(35.1415)
    else:
        assert 0 <= ours.timestamps[0] < 0.11
        assert ours.duration == pytest.approx(10.0)
