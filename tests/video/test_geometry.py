"""Patches against slow loops, and against transformers' own processors where torchvision is installed."""

import numpy as np
import pytest
import torch

from taro.video.geometry import CLIP_MEAN, CLIP_STD, PatchGeometry, frames_to_patches, resize_frames

QWEN25 = PatchGeometry()
QWEN3 = PatchGeometry(patch_size=16, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
SMALL = PatchGeometry(patch_size=2, merge_size=3, temporal_patch_size=1)


def random_frames(count, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def slow_patches(frames, geometry):
    """Row after row, value after value, as the layout is defined."""
    merge, patch, temporal = geometry.merge_size, geometry.patch_size, geometry.temporal_patch_size
    grid_t, grid_h, grid_w = geometry.grid(frames.shape)
    pixels, rows = frames.numpy(), []
    for t, block_y, block_x, y, x in np.ndindex(grid_t, grid_h // merge, grid_w // merge, merge, merge):
        top, left = (block_y * merge + y) * patch, (block_x * merge + x) * patch
        rows.append(
            [
                (pixels[t * temporal + f, c, top + i, left + j] / 255 - geometry.image_mean[c]) / geometry.image_std[c]
                for c, f, i, j in np.ndindex(3, temporal, patch, patch)
            ]
        )
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize(
    ("geometry", "shape"), [(QWEN25, (4, 56, 84)), (QWEN3, (2, 64, 32)), (SMALL, (3, 12, 6))], ids=str
)
def test_patches_are_the_slow_loops(geometry, shape):
    frames = random_frames(*shape)
    patches = frames_to_patches(frames, geometry)
    assert patches.dtype == torch.float32
    assert patches.shape[0] == np.prod(geometry.grid(frames.shape))
    torch.testing.assert_close(patches, slow_patches(frames, geometry), rtol=0, atol=2e-6)


def test_defaults_are_qwen25():
    assert (QWEN25.factor, QWEN25.image_mean, QWEN25.image_std) == (28, CLIP_MEAN, CLIP_STD)
    assert QWEN25.grid((6, 3, 56, 84)) == (3, 4, 6)
    assert QWEN3.factor == 32


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 56, 56), "3 frames, need a positive multiple of 2"),
        ((0, 3, 56, 56), "0 frames"),
        ((2, 3, 56, 42), "56 x 42 pixels, both sides must be positive multiples of 28"),
        ((2, 3, 0, 56), "0 x 56 pixels"),
        ((2, 1, 56, 56), r"shape \(F, 3, H, W\)"),
        ((3, 56, 56), r"shape \(F, 3, H, W\)"),
    ],
)
def test_wrong_shapes_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        frames_to_patches(torch.zeros(shape, dtype=torch.uint8), QWEN25)


def cubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def slow_axis(values, size):
    """Resize the last axis of (..., N): each output is a weighted mean of the inputs under a widened cubic kernel."""
    total = values.shape[-1]
    scale = total / size
    widen = max(scale, 1.0)
    columns = []
    for place in range(size):
        centre = (place + 0.5) * scale
        weights = np.array([cubic((i + 0.5 - centre) / widen) for i in range(total)])
        columns.append(values @ (weights / weights.sum()))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("size", [(28, 28), (56, 28), (28, 112), (84, 140)])
def test_resize_is_the_slow_one(size):
    frames = random_frames(2, 41, 63)
    rows = slow_axis(frames.numpy().astype(np.float64), size[1])
    slow = np.swapaxes(slow_axis(np.swapaxes(rows, 2, 3), size[0]), 2, 3)
    fast = resize_frames(frames, *size)
    assert fast.dtype == torch.uint8 and torch.equal(resize_frames(frames, 41, 63), frames)
    assert slow.min() < 0 or slow.max() > 255 or size[0] < 41  # clamping is met where the frames grow
    assert np.abs(fast.numpy() - slow.clip(0, 255)).max() <= 0.5 + 1e-3  # that is, rounded to the nearest


def test_resize_is_torchvisions():
    functional = pytest.importorskip("torchvision.transforms.functional", exc_type=(ImportError, RuntimeError))
    frames = random_frames(2, 90, 160)
    theirs = functional.resize(frames, [56, 112], interpolation=functional.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize_frames(frames, 56, 112), theirs)


@pytest.mark.parametrize(
    "family", ["qwen2_vl.video_processing_qwen2_vl.Qwen2VL", "qwen3_vl.video_processing_qwen3_vl.Qwen3VL"]
)
def test_patches_are_transformers(family):
    pytest.importorskip("torchvision.transforms.functional", exc_type=(ImportError, RuntimeError))
    module, name = f"transformers.models.{family}VideoProcessor".rsplit(".", 1)
    processor = getattr(pytest.importorskip(module), name)(do_resize=False, do_sample_frames=False)
    sizes = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    geometry = PatchGeometry(*sizes, tuple(processor.image_mean), tuple(processor.image_std))
    frames = random_frames(4, 2 * geometry.factor, 3 * geometry.factor)
    theirs = processor(videos=[frames], return_tensors="pt", cap_pixels_per_frame=True)
    assert tuple(theirs["video_grid_thw"][0].tolist()) == geometry.grid(frames.shape)
    assert torch.equal(frames_to_patches(frames, geometry), theirs["pixel_values_videos"])
