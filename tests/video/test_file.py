"""Files that are no video, or not a whole one."""

import os
import pickle
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import BACKENDS, load, numbers, overwrite, steady, write_video

from taro.prepare.convert import VIDEO_ENDINGS
from taro.video import file
from taro.video.file import VideoError, VideoFile

pytestmark = pytest.mark.slow  # as a whole file: real runs


def write_noise(path, *, codec="libx264", size=(64, 48), pictures=25, bit_rate=1_000_000):
    """A second of coarse noise, which no encoder leaves out of pictures."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", bit_rate
        for _ in range(pictures):
            picture = np.kron(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3)), np.ones((8, 8, 1)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24")))
        container.mux(stream.encode())
    return path


# No video, or not a whole one ------------------------------------------------------------------------------------


def picture(path):
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())


def playlist(path):
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://localhost:9/part0.ts\n#EXT-X-ENDLIST\n")


def below_a_file(path):
    path.touch()
    return path / "v.mp4"


def sound_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])


def wave_file(path):
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 8000, "NONE", ""))
        sound.writeframes(bytes(16000))


def cut(share_or_bytes, suffix=".mp4", **options):
    """Makes a video of two seconds of which this share is left, or this many bytes (below 0) are missing."""

    def make(path):
        data = write_video(path.with_suffix(suffix), steady(50), options=options).read_bytes()
        path.write_bytes(data[: int(share_or_bytes if share_or_bytes < 0 else share_or_bytes * len(data))])

    return make


def garbled(path):
    # Around picture 16, which is taken: decord reports damage elsewhere only now and then.
    overwrite(write_video(path, steady(50)), range(12, 20))


cut_short = cut(0.8, movflags="faststart")
BAD_FILES = {
    "pipe": (os.mkfifo, "is not a file"),
    "loop": (lambda path: path.symlink_to(path), "cannot be decoded"),
    "below a file": (below_a_file, "does not exist"),
    "picture": (picture, r"is not a video file of a kind that is read \(mp4, .* no pictures"),
    "playlist": (playlist, "cannot be decoded"),
    "device": (lambda path: Path("/dev/zero"), "is not a file"),
    "no path": (lambda path: Path("no\0path.mp4"), "does not exist"),
    "long name": (lambda path: path.with_name(300 * "v"), "cannot be decoded"),
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.touch(), "is empty"),
    "folder": (lambda path: path.mkdir(), "is not a file"),
    "text": (lambda path: path.write_text("not a video\n" * 200) and None, "cannot be decoded"),
    "without moov": (cut(-800), "cannot be decoded"),
    "cut short": (cut_short, r"is truncated: \d+ of 50 pictures"),
    "last picture cut": (cut(-1, movflags="faststart"), "cannot be decoded|cannot read it"),
    "matroska cut short": (cut(-1200, ".mkv"), "is truncated: its pictures end at"),
    "garbled": (garbled, "cannot be decoded|damaged|cannot read it"),
    "sound only": (sound_only, "has no picture stream"),
    "wave": (wave_file, "is not a video file of a kind that is read"),
}
BY_DECODERS = ("last picture cut", "garbled")  # the others are found before a backend is asked


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "pyav") for name in BAD_FILES), *((name, "decord") for name in BY_DECODERS)]
)
def test_bad_file(tmp_path, name, backend):
    make, message = BAD_FILES[name]
    path = make(tmp_path / "v.mp4") or tmp_path / "v.mp4"
    with pytest.raises(VideoError, match=message) as caught:
        load(path, backend=backend)
    error = pickle.loads(pickle.dumps(caught.value))  # as workers send it
    assert (error.path, str(error)) == (str(path), f"{path}: {caught.value.reason}")


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
LISTS = {"a.m3u8": HLS, "b.m3u8": HLS.replace("{}", "file://{}"), "a.ffconcat": "ffconcat version 1.0\nfile {}\n"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_other_files_is_not_followed(tmp_path, name, backend):
    """Who uploads one would see files of the server's, and let it ask others."""
    path, part = tmp_path / name, write_video(tmp_path / "part.ts", steady(50))
    path.write_text(LISTS[name].format(part.name if name == "a.ffconcat" else part))
    with av.open(str(path)) as container:  # libav itself would
        assert next(container.decode(video=0)).width == 64
    with pytest.raises(VideoError, match="no playlists"):
        load(path, backend=backend)


@pytest.mark.parametrize("ending", [*VIDEO_ENDINGS, ".wmv", ".3gp", ".m2ts", ".ivf", ".rm"])
def test_every_kind_of_video_is_opened(tmp_path, ending):
    mpeg = dict.fromkeys((".mpg", ".mpeg"), "mpeg2video")
    codec = mpeg | {".webm": "libvpx-vp9", ".ivf": "libvpx-vp9", ".rm": "rv10", ".flv": "flv"}
    path = write_noise(tmp_path / f"v{ending}", codec=codec.get(ending, "mpeg4"), size=(176, 144))
    with VideoFile(path, 60.0).opened() as (container, stream):
        assert next(container.decode(stream)).width == 176


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0o000, 0o200])
def test_a_file_that_may_not_be_read(tmp_path, mode):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write_noise(folder / "v.mp4")
    path.chmod(mode)
    with pytest.raises(VideoError, match="PermissionError"):
        load(path)
    folder.chmod(mode)  # nor looked at
    try:
        with pytest.raises(VideoError, match="PermissionError"):
            load(path)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_name_does_not_matter(tmp_path, monkeypatch, backend):
    monkeypatch.chdir(tmp_path)
    path = write_noise(Path("v.mp4"))
    expected = load(path, backend=backend)
    for name in ("v.avi", "v.txt", "v", "1:30.mp4", "100%d.mp4", "é ü.mp4"):
        path = path.rename(name)
        assert (load(path, backend=backend).frames == expected.frames).all(), name


def test_pictures_too_large_for_the_memory(tmp_path, monkeypatch):
    path = write_noise(tmp_path / "v.mp4")
    monkeypatch.setattr(file, "MOST_PIXELS", 64 * 48)
    assert len(load(path).frames) == 4
    monkeypatch.setattr(file, "MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(VideoError, match="its pictures of 64 x 48 pixels are too large"):
        load(path)


def test_pictures_larger_than_the_header_says(tmp_path, monkeypatch):
    small, large = (write_noise(tmp_path / f"{size[0]}.ts", size=size) for size in ((64, 48), (128, 96)))
    (tmp_path / "v.ts").write_bytes(small.read_bytes() + large.read_bytes())
    video = VideoFile(tmp_path / "v.ts", 60.0)
    monkeypatch.setattr(file, "MOST_PIXELS", 64 * 48)
    with pytest.raises(VideoError, match="cannot be decoded"), video.opened() as (container, stream):
        for frame in container.decode(stream):
            assert (frame.width, frame.height) == (64, 48)


# A part that is missing or damaged --------------------------------------------------------------------------------


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


# A part that was never written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
def test_a_hole_is_found(tmp_path, codec):
    """Most decoders make pictures of zeros, too."""
    try:
        path = write_noise(tmp_path / "v.mp4", codec=codec, size=(320, 240))
    except (ValueError, av.FFmpegError):
        pytest.skip(f"PyAV was built without {codec}")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size > 600][3]
    data = path.read_bytes()
    start = data.index(bytes(packet)) + packet.size // 2
    path.write_bytes(data[:start] + bytes(200) + data[start + 200 :])
    with pytest.raises(VideoError, match="has a hole: zeros in place of the picture at"):
        load(path)


# Messages ----------------------------------------------------------------------------------------------------------


def test_messages_cannot_block(tmp_path):
    """Another package, as torchvision, may have switched PyAV's logging on. Its callback needs the GIL, in threads that PyAV
    waits for with the GIL held when it stops a decoder: where they report damage just then, nothing goes on."""
    file = VideoFile(write_noise(tmp_path / "v.mp4"), 60.0)
    av.logging.set_level(av.logging.ERROR)
    try:
        with file.opened():
            assert av.logging.get_level() is None
    finally:
        av.logging.set_level(None)
