import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from taro.cache import CacheCounts, TensorCache
from taro.models.feature_cache import FeatureCache, weights_fingerprint
from taro.models.qwen_vl import VisionFeatures
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoSettings

VIDEO = VideoSettings(fps=1.0, max_tokens=64)
FRAMES = torch.zeros(2, 3, 28, 28, dtype=torch.uint8)


class Tower(nn.Module):
    """As much of one as the cache asks for."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3), requires_grad=False)
        self.register_buffer("places", torch.arange(3), persistent=False)


@pytest.fixture
def make(tmp_path):
    def make(tower=None, geometry=None):
        return FeatureCache(TensorCache(tmp_path / "cache", 10**9), tower or Tower(), geometry or PatchGeometry())

    return make


def never():
    raise AssertionError("encoded")


def constant(value, dtype=torch.float32):
    return lambda: VisionFeatures(torch.full((2, 3), value, dtype=dtype))


def assert_same(one, other):
    assert len(one.deepstack) == len(other.deepstack)
    for a, b in zip((one.embeds, *one.deepstack), (other.embeds, *other.deepstack), strict=True):
        assert a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


@torch.no_grad()
def test_kept_features_are_the_computed_ones(policy, family, prompts, video_path, make):
    cache = make(policy.tower, policy.geometry)
    for number, prompt in enumerate(prompts):
        frames, clip = prompt.video.frames, (0.0, 1.0 + number)
        plain = policy.encode_video(frames)
        assert bool(plain.deepstack) == (family == "qwen3_vl")
        assert_same(cache.features(video_path, clip, VIDEO, frames, lambda frames=frames: policy.encode_video(frames)), plain)
        assert_same(cache.features(video_path, clip, VIDEO, frames, never), plain)
        assert_same(make(policy.tower, policy.geometry).features(video_path, clip, VIDEO, frames, never), plain)
    assert cache.cache.counts == CacheCounts(hits=len(prompts), misses=len(prompts))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_stay(make, video_path, dtype):
    values = torch.randn(4, 3, dtype=torch.float64).to(dtype)
    features = VisionFeatures(values[:2], (values[2:], values[:2]))  # parts of one tensor, as a tower gives them
    make().features(video_path, None, VIDEO, FRAMES, lambda: features)
    assert_same(make().features(video_path, None, VIDEO, FRAMES, never), features)


OTHERS = {
    "clip": {"clip": (0.0, 3.0)},
    "settings": {"settings": replace(VIDEO, max_frames=8)},
    "geometry": {"geometry": PatchGeometry(patch_size=16)},
    "weights": {"tower": "weights"},
    "dtype": {"tower": "dtype"},
    "buffer": {"tower": "buffer"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_anything_else_asked_for_is_another_entry(make, video_path, other):
    cache = make()
    cache.features(video_path, None, VIDEO, FRAMES, constant(1.0))
    tower = Tower()
    if other.get("tower") == "weights":
        tower.weight[1, 2] = 5.000001
    elif other.get("tower") == "dtype":
        tower.to(torch.float64)
    elif other.get("tower") == "buffer":
        tower.places[0] = 7
    another = make(tower, other.get("geometry"))
    asked = (video_path, other.get("clip"), other.get("settings", VIDEO), FRAMES)
    assert_same(another.features(*asked, constant(2.0)), constant(2.0)())
    assert another.cache.counts == CacheCounts(misses=1)
    assert_same(another.features(*asked, never), constant(2.0)())
    assert_same(cache.features(video_path, None, VIDEO, FRAMES, never), constant(1.0)())


def test_another_precision_is_another_entry(make, video_path):
    cache, asked = make(), (video_path, None, VIDEO, FRAMES)
    cache.features(*asked, constant(1.0))
    expected = constant(1.0, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        for compute in (expected, never):
            assert_same(cache.features(*asked, compute), expected())
    assert_same(cache.features(*asked, never), constant(1.0)())


@pytest.mark.parametrize("change", ["time", "size", "frames"])
def test_what_changed_is_encoded_again(make, video_path, change):
    cache, frames = make(), FRAMES.clone()
    cache.features(video_path, None, VIDEO, frames, constant(1.0))
    before = os.stat(video_path)
    if change == "size":
        with open(video_path, "ab") as file:
            file.write(b"\0")
        os.utime(video_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "time":
        os.utime(video_path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    else:
        frames[1, 2, 3, 4] = 1
    assert_same(cache.features(video_path, None, VIDEO, frames, constant(2.0)), constant(2.0)())
    assert cache.cache.counts == CacheCounts(misses=2)
    assert_same(cache.features(video_path, None, VIDEO, frames, never), constant(2.0)())


def test_without_the_file_nothing_is_kept(make, tmp_path):
    cache = make()
    for value in (1.0, 2.0):
        assert_same(cache.features(str(tmp_path / "none.mp4"), None, VIDEO, FRAMES, constant(value)), constant(value)())
    assert cache.cache.counts == CacheCounts() and not (tmp_path / "cache").exists()


def test_a_tower_in_training_is_refused(make, video_path):
    with pytest.raises(ValueError, match="freeze it first"):
        make(Tower().requires_grad_(True)).features(video_path, None, VIDEO, FRAMES, never)


def test_the_fingerprint(policy, make, video_path, monkeypatch):
    assert weights_fingerprint(policy.tower) == weights_fingerprint(policy.frozen_copy().tower)
    assert weights_fingerprint(Tower()) == weights_fingerprint(Tower()) != weights_fingerprint(policy.tower)
    renamed = Tower()
    renamed.other = renamed.weight
    del renamed.weight
    reshaped = Tower()
    reshaped.weight = nn.Parameter(reshaped.weight.reshape(3, 2), requires_grad=False)
    assert len({weights_fingerprint(tower) for tower in (Tower(), renamed, reshaped)}) == 3
    cache, computed = make(), []
    monkeypatch.setattr(
        "taro.models.feature_cache.weights_fingerprint", lambda tower: computed.append(tower) or weights_fingerprint(tower)
    )
    for _ in range(3):
        cache.features(video_path, None, VIDEO, FRAMES, constant(1.0))
    assert len(computed) == 1
