"""Files that are no video, or not a whole one."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from taro.video import file
from taro.video.file import VideoFile
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoError, VideoSettings, load_video

BACKENDS = ["pyav", "decord"]


def write_video(path, *, codec="libx264", size=(64, 48), pictures=25, bit_rate=1_000_000):
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


def load(path, backend="pyav", **settings):
    if backend == "decord":
        pytest.importorskip("decord")
    return load_video(path, clip=None, settings=VideoSettings(backend=backend, **settings), geometry=PatchGeometry())


# Not a video -----------------------------------------------------------------------------------------------------


def pipe(path):
    os.mkfifo(path)
    return path


def loop(path):
    path.symlink_to(path)
    return path


def below_a_file(path):
    path.touch()
    return path / "v.mp4"


def picture(path):
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    return path


def playlist(path):
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://localhost:9/part0.ts\n#EXT-X-ENDLIST\n")
    return path


def device(path):
    return Path("/dev/zero")


def no_path(path):
    return Path("no\0path.mp4")


def long_name(path):
    return path.with_name(300 * "v")


NO_VIDEOS = {
    pipe: "is not a file",
    loop: "cannot be decoded",
    below_a_file: "does not exist",
    picture: "is a picture, not a video",
    playlist: "cannot be decoded",
    device: "is not a file",
    no_path: "does not exist",
    long_name: "cannot be decoded",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", NO_VIDEOS, ids=lambda make: make.__name__)
def test_no_video(tmp_path, make, backend):
    path = make(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match=NO_VIDEOS[make]):
        load(path, backend, timeout=10.0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("mode", [0o000, 0o200])
def test_a_file_that_may_not_be_read(tmp_path, mode):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write_video(folder / "v.mp4")
    path.chmod(mode)
    with pytest.raises(VideoError, match="PermissionError"):
        load(path)
    folder.chmod(mode)  # nor looked at
    try:
        with pytest.raises(VideoError, match="PermissionError"):
            load(path)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["v.avi", "v.txt", "v", "1:30.mp4", "100%d.mp4", "é ü.mp4"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_name_does_not_matter(tmp_path, monkeypatch, name, backend):
    monkeypatch.chdir(tmp_path)
    expected = load(write_video(tmp_path / "v.mp4"), backend)
    try:
        Path("v.mp4").rename(name)
    except OSError:
        pytest.skip("not a name in this file system")
    assert (load(Path(name), backend).frames == expected.frames).all()


def test_pictures_too_large_for_the_memory(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4")
    monkeypatch.setattr(file, "MOST_PIXELS", 64 * 48)
    assert len(load(path).frames) == 4
    monkeypatch.setattr(file, "MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(VideoError, match="its pictures of 64 x 48 pixels are too large"):
        load(path)


def test_pictures_larger_than_the_header_says(tmp_path, monkeypatch):
    small, large = (write_video(tmp_path / f"{size[0]}.ts", size=size) for size in ((64, 48), (128, 96)))
    (tmp_path / "v.ts").write_bytes(small.read_bytes() + large.read_bytes())
    file = VideoFile.limited(tmp_path / "v.ts", 60.0)
    monkeypatch.setattr(file, "MOST_PIXELS", 64 * 48)
    with pytest.raises(VideoError, match="cannot be decoded"), file.opened() as (container, stream):
        for frame in container.decode(stream):
            assert (frame.width, frame.height) == (64, 48)


# A part that was never written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hole_is_found(tmp_path, codec, backend):
    """Most decoders make pictures of zeros, too."""
    try:
        path = write_video(tmp_path / "v.mp4", codec=codec, size=(320, 240))
    except (ValueError, av.FFmpegError):
        pytest.skip(f"PyAV was built without {codec}")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size > 600][3]
    data = path.read_bytes()
    start = data.index(bytes(packet)) + packet.size // 2
    path.write_bytes(data[:start] + bytes(200) + data[start + 200 :])
    with pytest.raises(VideoError, match="has a hole: zeros in place of the picture at"):
        load(path, backend)


# Messages ----------------------------------------------------------------------------------------------------------

def test_messages_cannot_block(tmp_path):
    """Another package, as torchvision, may have switched PyAV's logging on. Its callback needs the GIL, in threads that PyAV
    waits for with the GIL held when it stops a decoder: where they report damage just then, nothing goes on."""
    file = VideoFile.limited(write_video(tmp_path / "v.mp4"), 60.0)
    av.logging.set_level(av.logging.ERROR)
    try:
        with file.opened():
            assert av.logging.get_level() is None
    finally:
        av.logging.set_level(None)
