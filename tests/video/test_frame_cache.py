import json
import os
import shutil
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from taro.cache import CacheCounts, DiskCacheSettings, TensorCache
from taro.data.dataset import GroundingDataset
from taro.data.samples import load_samples
from taro.models.settings import GroundingSettings
from taro.run.checks import ConfigError
from taro.run.cli import parse
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.frame_cache import FrameCache, file_identity, video_key
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoError, VideoSettings, load_video

VIDEO = VideoSettings(fps=1.0, max_tokens=64)
GEOMETRY = PatchGeometry()


@pytest.fixture
def frames(tmp_path):
    return FrameCache(TensorCache(tmp_path / "cache", 10**9))


def ask(frames, path, clip=None, settings=VIDEO, geometry=GEOMETRY):
    load = partial(load_video, path, clip=clip, settings=settings, geometry=geometry)
    return frames.video(path, clip, settings, geometry, load)


def never():
    raise AssertionError("decoded")


def assert_same(one, other):
    assert one.frames.dtype == other.frames.dtype == torch.uint8 and torch.equal(one.frames, other.frames)
    assert one.timestamps.dtype == other.timestamps.dtype == torch.float64
    assert torch.equal(one.timestamps, other.timestamps)
    assert (one.fps, one.duration) == (other.fps, other.duration)


def test_a_kept_video_is_the_decoded_one(frames, video_path):
    """Also what doesn't fit a float32."""
    plain = load_video(video_path, clip=(1.1, 4.7), settings=VIDEO, geometry=GEOMETRY)
    assert_same(ask(frames, video_path, (1.1, 4.7)), plain)
    assert_same(frames.video(video_path, (1.1, 4.7), VIDEO, GEOMETRY, never), plain)
    assert frames.cache.counts == CacheCounts(hits=1, misses=1)
    video = replace(plain, fps=1 / 3, duration=12.1)
    frames.video(video_path, None, VIDEO, GEOMETRY, lambda: video)
    assert_same(frames.video(video_path, None, VIDEO, GEOMETRY, never), video)


OTHERS = {
    "clip": {"clip": (0.0, 3.0)},
    "clip by a bit": {"clip": (1.0, 3.0000000000000004)},
    "fps": {"settings": replace(VIDEO, fps=2.0)},
    "tokens": {"settings": replace(VIDEO, max_tokens=48)},
    "geometry": {"geometry": PatchGeometry(patch_size=16)},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_anything_else_asked_for_is_another_entry(frames, video_path, other):
    first = {"clip": (1.0, 3.0)}
    ask(frames, video_path, **first)
    expected = load_video(video_path, **{"clip": (1.0, 3.0), "settings": VIDEO, "geometry": GEOMETRY} | other)
    assert_same(ask(frames, video_path, **first | other), expected)
    frames.video(video_path, (1.0, 3.0), VIDEO, GEOMETRY, never)
    assert frames.cache.counts == CacheCounts(hits=1, misses=2)


def test_the_key_has_every_setting_but_the_time_allowed():
    def key(**changes):
        return video_key("frames", "a.mp4", None, replace(VIDEO, **changes), GEOMETRY)

    assert json.loads(key())["settings"].keys() == asdict(VIDEO).keys() - {"timeout"}
    assert key() == key(timeout=1.0) and key() != key(min_frames=2) != key(backend="decord")
    assert key() == video_key("frames", os.path.abspath("a.mp4"), None, VIDEO, GEOMETRY)
    assert len({key(), video_key("features", "a.mp4", None, VIDEO, GEOMETRY), key(max_frames=8)}) == 3


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_changed_file_is_decoded_again(frames, video_path, change):
    ask(frames, video_path)
    before = os.stat(video_path)
    if change == "size":
        with open(video_path, "ab") as file:
            file.write(b"\0")
        os.utime(video_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(video_path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(AssertionError, match="decoded"):
        frames.video(video_path, None, VIDEO, GEOMETRY, never)
    ask(frames, video_path)
    assert frames.cache.counts == CacheCounts(misses=3)
    frames.video(video_path, None, VIDEO, GEOMETRY, never)


def test_failures_are_not_kept(frames, video_path, tmp_path):
    broken = str(tmp_path / "broken.mp4")
    for path in (broken, str(tmp_path / "missing.mp4")):
        if path == broken:
            (tmp_path / "broken.mp4").write_bytes(b"no video")
        for _ in range(2):
            with pytest.raises(VideoError):
                ask(frames, path)
    assert not (tmp_path / "cache").exists()
    before = os.stat(broken)
    shutil.copyfile(video_path, broken)
    os.utime(broken, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_same(ask(frames, broken), ask(frames, video_path))
    assert file_identity(str(tmp_path / "missing.mp4")) is None


# ---- Datasets ----


@pytest.fixture
def decoded(monkeypatch):
    """Paths that datasets decoded."""
    paths = []
    monkeypatch.setattr(
        "taro.data.dataset.load_video", lambda path, **settings: paths.append(path) or load_video(path, **settings)
    )
    return paths


@pytest.fixture
def make(tiny_builder, synthetic, tmp_path):
    """A dataset with nothing in memory, as a worker has it at its start."""
    samples = load_samples(synthetic / "train.jsonl")
    settings = GroundingSettings(TINY_PROMPT, VIDEO)
    return lambda: GroundingDataset(samples, tiny_builder, settings, DiskCacheSettings(str(tmp_path / "cache")))


@pytest.mark.slow
def test_a_video_is_decoded_once_for_all_epochs_and_runs(make, decoded):
    plain = make()
    plain.frame_cache = None
    expected = [plain[index].prompt for index in range(len(plain))]
    videos = list(dict.fromkeys(sample.video for sample in plain.samples))
    assert decoded == videos
    decoded.clear()
    for dataset in (make(), make()):
        for index in [*range(len(dataset)), 0, 1]:
            prompt = dataset[index].prompt
            assert_same(prompt.video, expected[index].video)
            assert torch.equal(prompt.input_ids, expected[index].input_ids)
    assert decoded == videos
    assert dataset.frame_cache.cache.counts == CacheCounts(hits=len(videos))  # memory comes first


def test_torn_frames_are_counted_and_decoded_again(make, decoded, tmp_path):
    first = make()[0].prompt.video
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    dataset = make()
    with pytest.warns(UserWarning, match=rf"data.frame_cache: {path} is damaged"):
        assert_same(dataset[0].prompt.video, first)
    assert dataset.frame_cache.cache.counts == CacheCounts(torn=1) and len(decoded) == 2
    assert_same(make()[0].prompt.video, first)
    assert len(decoded) == 2


# ---- Settings ----


@pytest.mark.slow
def test_settings_reach_the_datamodule(arguments, tmp_path):
    assert parse(arguments).datamodule.frame_cache is None
    flags = [f"--data.frame_cache.folder={tmp_path}/a/b", "--data.frame_cache.max_gigabytes=2.5"]
    assert parse([*arguments, *flags]).datamodule.frame_cache == DiskCacheSettings(f"{tmp_path}/a/b", 2.5)


@pytest.mark.slow
def test_settings_that_cannot_work_are_named(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    folder = f"--data.frame_cache.folder={tmp_path}/file/cache"
    with pytest.raises(ConfigError) as error:
        parse([*arguments, folder])
    assert str(error.value).splitlines()[1:] == [
        f"- data.frame_cache.folder = {tmp_path}/file/cache: no folder that can be made and written to (Not a directory)",
    ]
    with pytest.raises(SystemExit):
        parse([*arguments, folder, "--data.frame_cache.max_gigabytes=0"])
    assert "max_gigabytes = 0: must be a number above 0" in capsys.readouterr().err
