"""Videos on disk to frames: real files, made with PyAV, read by both backends."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from made_videos import BACKENDS, GEOMETRY, load, numbers, steady, write_video

from taro.video.geometry import PatchGeometry
from taro.video.load import VideoError, VideoSettings, sample_frame_count, smart_resize

REAL_VIDEO = Path(__file__).parents[3] / "shared" / "videos" / "OHOFG.mp4"


# Counts and sizes ------------------------------------------------------------------------------------------------

# From qwen-vl-utils 0.0.14: pictures, their fps, settings fps, max_frames, min_frames -> smart_nframes.
COUNTS = [
    (250, 25.0, 2.0, 768, 4, 20),
    (335, 9.532888465204957, 2.0, 768, 4, 70),
    (10, 25.0, 2.0, 768, 4, 4),
    (3, 25.0, 4.0, 31, 8, 2),
    (20000, 25.0, 1.0, 64, 5, 64),
    (54000, 30.0, 2.0, 768, 4, 768),
    (7, 1.0, 2.0, 768, 4, 6),
    (76, 25.0, 4.0, 31, 8, 12),
]

# From qwen-vl-utils 0.0.14: height, width, frames, patch_size, total and minimal tokens -> size that fetch_video takes.
SIZES = [
    (360, 640, 4, 14, 3584, 4, (364, 644)),
    (360, 640, 4, 16, 4096, 16, (352, 640)),
    (360, 640, 140, 14, 16384, 128, (308, 560)),
    (360, 640, 768, 14, 3584, 4, (56, 112)),
    (360, 640, 768, 16, 4096, 16, (96, 160)),
    (1080, 1920, 60, 14, 16384, 128, (476, 868)),
    (41, 63, 4, 14, 3584, 4, (56, 84)),
    (41, 63, 768, 16, 4096, 16, (128, 160)),
    (20, 20, 4, 14, 3584, 4, (56, 56)),
    (20, 20, 140, 14, 16384, 128, (336, 336)),
    (100, 3000, 4, 14, 3584, 4, (112, 2996)),
    (100, 3000, 60, 16, 4096, 16, (64, 2048)),
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


def test_where_qwens_numbers_would_be_too_small():
    """A single picture still fills a temporal patch; a long strip keeps a side of one token, not of 0, and its budget."""
    assert sample_frame_count(1, 25.0, VideoSettings(), 2) == 2
    assert smart_resize(100, 3000, frames=768, settings=VideoSettings(), geometry=GEOMETRY) == (28, 252)
    with pytest.raises(ValueError, match="more than 200 times"):
        smart_resize(10, 2010, frames=4, settings=VideoSettings(), geometry=GEOMETRY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fps": float("inf")}, "fps=inf and timeout=120.0 must be finite"),
        ({"timeout": float("nan")}, "timeout=nan must be finite"),
        ({"max_frames": 1, "min_frames": 1}, "max_frames=1 must be at least 2"),
        ({"min_frames": 9, "max_frames": 8}, "max_frames=8 must be at least 2, and at least min_frames=9"),
    ],
)
def test_settings_that_can_not_go_together(wrong, message):
    with pytest.raises(ValueError, match=message):
        VideoSettings(**wrong)


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory):
    """50 pictures, one every 40 ms."""
    return write_video(tmp_path_factory.mktemp("videos") / "v.mp4", steady(50))


# Frames and times ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_rate(two_seconds, backend):
    video = load(two_seconds, backend=backend)
    expected = torch.linspace(0, 49, 4).round().long().tolist()  # 2 s at 2 fps, the first and the last included
    assert numbers(video) == expected
    assert video.timestamps.tolist() == pytest.approx([number / 25 for number in expected])
    assert video.timestamps.dtype == torch.float64
    assert (video.duration, video.fps) == (2.0, 2.0)
    assert video.frames.shape == (4, 3, 56, 56) and video.frames.dtype == torch.uint8
    fewer = load(two_seconds, backend=backend, fps=10, max_frames=5)
    assert numbers(fewer) == [0, 16, 33, 49] and fewer.fps == 2.0


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_late_first_picture_starts_the_clock(tmp_path, backend):
    video = load(write_video(tmp_path / "v.mp4", steady(50, start=1500)), backend=backend)
    assert video.timestamps[0] == 0
    assert video.duration == pytest.approx(2.0)
    clip = load(tmp_path / "v.mp4", clip=(0.4, 1.6), backend=backend)
    assert numbers(clip)[0] == 10


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("start", "end"), [(0.4, 1.2), (0.41, 1.19), (0.0, 2.0), (1.0, 9.0)])
def test_clip_has_its_own_clock(two_seconds, backend, start, end):
    video = load(two_seconds, clip=(start, end), backend=backend, fps=8)
    first, last = -int(-start * 25 // 1), min(int(end * 25), 49)  # qwen-vl-utils: rounded inwards
    assert numbers(video) == torch.linspace(first, last, len(video.frames)).round().long().tolist()
    assert video.timestamps.tolist() == pytest.approx([number / 25 - start for number in numbers(video)])
    assert video.duration == pytest.approx(min(end, 2.0) - start)
    assert video.fps == pytest.approx(len(video.frames) / video.duration)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "expected"), [(1, [0, 0]), (2, [0, 1]), (3, [0, 2]), (5, [0, 1, 3, 4])])
def test_few_pictures(tmp_path, backend, count, expected):
    video = load(write_video(tmp_path / "v.mp4", steady(count)), backend=backend)
    assert numbers(video) == expected
    assert video.timestamps.tolist() == pytest.approx([number / 25 for number in expected])
    assert video.fps == pytest.approx(len(expected) / (count / 25))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_rotated_pictures_come_upright(tmp_path, backend):
    plain = load(write_video(tmp_path / "plain.mp4", steady(10), size=(112, 84)))
    for rotation in (90, 180, -90):
        path = write_video(tmp_path / f"{rotation}.mp4", steady(10), size=(112, 84), rotation=rotation)
        assert torch.equal(load(path, backend=backend).frames, torch.rot90(plain.frames, rotation // 90, dims=(2, 3)))


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


def test_other_geometry(two_seconds):
    geometry = PatchGeometry(patch_size=16, temporal_patch_size=4)
    video = load(two_seconds, geometry=geometry, fps=5)
    assert len(video.frames) == 8
    assert all(side % 32 == 0 for side in video.frames.shape[-2:])


@pytest.mark.parametrize("clip", [(-1.0, 1.0), (1.0, 1.0), (1.5, 0.5), (5.0, 6.0), (0.0, float("nan"))])
def test_clip_outside_of_the_video(two_seconds, clip):
    with pytest.raises(VideoError, match="clip"):
        load(two_seconds, clip=clip)


def test_too_narrow_pictures(tmp_path):
    path = write_video(tmp_path / "v.mp4", steady(4), size=(1024, 4), codec="mpeg4")
    with pytest.raises(VideoError, match="more than 200 times"):
        load(path)


# A real video ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
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
