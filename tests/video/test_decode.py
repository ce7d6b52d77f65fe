"""Pictures decoded with those in between left out, against all decoded: the same bytes."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from made_videos import load, numbers, steady, write_video

import taro.video.decode
from taro.video.decode import decode_decord, decode_pyav
from taro.video.file import VideoError, VideoFile
from taro.video.index import read_index

pytestmark = pytest.mark.slow  # as a whole file: videos are made and read

COUNT = 90
# Container, codec, its options, milliseconds between pictures (0: uneven).
STREAMS = {
    "b-pyramid": ("mp4", "libx264", {"x264-params": "bframes=5:b-pyramid=normal:keyint=24"}, 40),
    "one-keyframe": ("mp4", "libx264", {"x264-params": "bframes=5:b-pyramid=strict:keyint=999:scenecut=0"}, 40),
    "open-gop-mkv": ("mkv", "libx264", {"x264-params": "bframes=4:open-gop=1:keyint=15:min-keyint=6"}, 40),
    "open-gop-ts": ("ts", "libx264", {"x264-params": "bframes=4:open-gop=1:keyint=15:min-keyint=6"}, 40),
    "interlaced": ("mp4", "libx264", {"x264-params": "bframes=3:interlaced=1:keyint=24"}, 40),
    "intra-refresh": ("mp4", "libx264", {"x264-params": "bframes=3:intra-refresh=1:keyint=20"}, 40),
    "intra-only": ("mp4", "libx264", {"x264-params": "keyint=1"}, 40),
    "uneven": ("mp4", "libx264", {"x264-params": "bframes=3:keyint=24"}, 0),
    "h264-avi": ("avi", "libx264", {"x264-params": "bframes=3:keyint=24"}, 40),
    "hevc": ("mp4", "libx265", {"x265-params": "bframes=4:keyint=15:open-gop=1:log-level=none"}, 40),
    "hevc-layers": ("mkv", "libx265", {"x265-params": "bframes=4:keyint=24:temporal-layers=3:log-level=none"}, 40),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "16", "g": "20"}, 40),
    "vp8": ("webm", "libvpx", {"deadline": "realtime", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}, 40),
    "mpeg4": ("mp4", "mpeg4", {"bf": "2", "g": "15"}, 40),
    "mpeg4-avi": ("avi", "mpeg4", {"bf": "2", "g": "15"}, 40),
    "mjpeg-mkv": ("mkv", "mjpeg", {}, 40),
}


@pytest.fixture(scope="module", params=STREAMS)
def path(request, tmp_path_factory):
    """A file of moving texture, for each of STREAMS."""
    suffix, codec, options, step = STREAMS[request.param]
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 256, (40, 60, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    path = tmp_path_factory.mktemp("streams") / f"{request.param}.{suffix}"
    with av.open(str(path), "w") as container:
        try:
            stream = container.add_stream(codec, rate=25, options=options)
        except (ValueError, av.FFmpegError):
            pytest.skip(f"PyAV was built without {codec}")
        stream.width, stream.height, stream.bit_rate = 96, 64, 1_000_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for number in range(COUNT):
            picture = np.ascontiguousarray(texture[2 * number :, 3 * number :][:64, :96])
            picture[20:40, number : number + 5] = rng.integers(0, 256, 3)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            time += step or int(rng.integers(20, 200))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode(path, wanted):
    """The pictures at these places, by place."""
    file = VideoFile(path, 60.0)
    return dict(decode_pyav(file, read_index(file, None), wanted, None))


def decode_all(path):
    """Pictures (H, W, 3) in order, with their pts."""
    with av.open(str(path)) as container:
        return [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def read_packets(path, larger_than=0):
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size > larger_than]


def damage(path, packet, damaged):
    """Write a copy of the file in which the later half of a packet is overwritten."""
    data = bytearray(path.read_bytes())
    half, end = packet.size // 2, data.index(bytes(packet)) + packet.size
    data[end - half : end] = b"\xff" * half
    damaged.write_bytes(data)


def test_left_out_pictures_change_nothing(path):
    draw, plain = random.Random(0), decode_all(path)
    by_pts = dict(plain)
    clips = [None] * 8 + [(start, start + draw.uniform(1.0, 1.8)) for start in (0.0, 0.4, 0.9, 1.3, 1.7)]
    for clip in clips:
        file = VideoFile(path, 60.0)
        index = read_index(file, clip)
        total = len(index.pts)
        wanted = sorted({0, total - 1, *draw.choices(range(total), k=draw.choice([1, 3, 6, total // 3]))})
        found = dict(decode_pyav(file, index, wanted, None))
        assert list(found) == wanted
        for place in wanted:
            expected = plain[place + index.skipped][1] if index.in_order else by_pts[int(index.pts[place])]
            assert np.array_equal(found[place], expected)


def count_decoded(monkeypatch, path, wanted):
    """How many pictures the decoder gives out for these, the whole file not being decoded."""
    decoded, plain = [], taro.video.decode._decode_run

    def counting(*arguments):
        for frame in plain(*arguments):
            decoded.append(frame.pts)
            yield frame

    def refuse(*arguments):
        raise AssertionError("decoded the whole file")

    monkeypatch.setattr(taro.video.decode, "_decode_run", counting)
    monkeypatch.setattr(taro.video.decode, "_decode_all", refuse)
    assert list(decode(path, wanted)) == wanted
    return len(decoded)


@pytest.mark.parametrize(
    ("path", "most"),
    [("intra-only", 4), ("mjpeg-mkv", 4), ("one-keyframe", 60), ("open-gop-ts", 48), ("vp9", 60), ("hevc", 60)],
    indirect=["path"],
)
def test_decodes_only_what_is_needed(path, most, monkeypatch):
    assert 4 <= count_decoded(monkeypatch, path, [0, 23, 47, 80]) <= most


@pytest.mark.parametrize("path", ["mpeg4"], indirect=True)
def test_damage_is_found_where_it_matters(path, tmp_path):
    damaged = tmp_path / "v.mp4"
    keyframe = [packet for packet in read_packets(path) if packet.is_keyframe][2]
    damage(path, keyframe, damaged)
    index = read_index(VideoFile(damaged, 60.0), None)
    place = int(np.searchsorted(index.pts, keyframe.pts))
    with pytest.raises(VideoError, match=r"damaged|cannot be decoded"):
        decode(damaged, [0, place, COUNT - 1])
    plain, found = (decode(one, [0, COUNT - 1]) for one in (path, damaged))
    assert all(np.array_equal(found[number], plain[number]) for number in (0, COUNT - 1))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["b-pyramid", "open-gop-mkv", "mpeg4", "mpeg4-avi", "interlaced"], indirect=True)
def test_no_picture_shows_damage(path, tmp_path, monkeypatch):
    """Those that refer to a picture that the decoder patched up are as wrong as that one, also where they are shown before it.

    Without threads: with them the decoder may be too late to mark a picture that no other refers to.
    """
    set_up = taro.video.decode._set_up
    monkeypatch.setattr(taro.video.decode, "_set_up", lambda *given, **how: set_up(*given, **how | {"threads": False}))
    plain = [picture for _, picture in decode_all(path)]
    packets, damaged, draw, found = read_packets(path, 200), tmp_path / f"v{path.suffix}", random.Random(0), []
    for packet in draw.sample(packets[:-12], 10):
        damage(path, packet, damaged)
        number = packets.index(packet)
        for place in range(max(number - 6, 0), number + 8):
            try:
                (picture,) = decode(damaged, [place]).values()
            except VideoError:
                found.append("error")
            else:
                assert np.array_equal(picture, plain[place])
                found.append("same")
    assert found.count("error") >= 10 and found.count("same") >= 10


@pytest.mark.parametrize("path", ["b-pyramid"], indirect=True)
def test_decord_is_not_believed_where_it_patches_up(path, tmp_path):
    """It gives such pictures as if nothing were wrong."""
    pytest.importorskip("decord")
    file = VideoFile(tmp_path / "v.mp4", 60.0)
    for packet in read_packets(path, 200)[4:20:5]:
        damage(path, packet, file.path)
        with pytest.raises(VideoError, match="is damaged, decord's decoder reports: concealing"):
            list(decode_decord(file, read_index(file, None), list(range(COUNT)), None))


@pytest.mark.parametrize("path", ["b-pyramid"], indirect=True)
def test_the_last_pictures_need_no_second_try(path, monkeypatch):
    for place in range(COUNT - 8, COUNT):
        with monkeypatch.context() as patched:
            assert 1 <= count_decoded(patched, path, [place]) <= COUNT


@pytest.mark.parametrize("path", ["b-pyramid"], indirect=True)
def test_faults_beside_the_pictures_are_no_damage(path, tmp_path):
    """Such as a message for the player that is cut short, which some cameras write with each picture."""
    message = b"\x06\x05\xff\xff\xff\x80"  # user data, of more bytes than there are
    with av.open(str(path)) as source, av.open(str(tmp_path / "v.mp4"), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                changed = av.Packet(len(message).to_bytes(4, "big") + message + bytes(packet))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe, changed.stream = packet.is_keyframe, stream
                copy.mux(changed)
    wanted = [0, 30, COUNT - 1]
    with pytest.raises(av.FFmpegError), av.open(str(tmp_path / "v.mp4")) as container:
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        list(container.decode(video=0))
    plain, found = (decode(one, wanted) for one in (path, tmp_path / "v.mp4"))
    assert all(np.array_equal(found[place], plain[place]) for place in wanted)


# Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_pictures_are_resized_upright(tmp_path, rotation):
    paths = [write_video(tmp_path / f"{angle}.mp4", steady(10), size=(160, 60), rotation=angle) for angle in (None, rotation)]
    for resize in ("swscale", "torch"):
        plain, turned = (load(path, resize=resize).frames for path in paths)
        assert plain.shape[-2:] == (56, 168)
        expected = torch.rot90(plain, rotation // 90, dims=(2, 3))
        assert turned.shape == expected.shape and (turned.int() - expected.int()).abs().max() <= 1


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


@pytest.mark.parametrize(("colorspace", "color_range"), [(2, 0), (1, 1), (1, 2), (5, 1)])  # untagged, BT.709, BT.601
def test_swscale_resizes_as_torch(tmp_path, colorspace, color_range):
    path = write_colours(tmp_path / "v.mp4", (320, 240), colorspace=colorspace, color_range=color_range)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (colorspace, color_range)
    for max_tokens, most in ((16, 8), (64, 9), (1000, 15)):  # the last makes the pictures larger
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


def test_pictures_may_change_their_size(tmp_path):
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
    for resize in ("swscale", "torch"):
        video = load(path, fps=4, resize=resize)
        assert video.frames.shape == (8, 3, 56, 56)
        assert numbers(video) == [number % 25 for number in torch.linspace(0, 49, 8).round().long().tolist()]
