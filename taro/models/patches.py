"""Frames to the patches that a Qwen-VL vision tower reads, in plain torch.

Shapes: F frames, H x W pixels, T x h x w the grid in patches (T = F / temporal_patch_size).
"""

import torch
from torch import Tensor

from taro.video.geometry import PatchGeometry


def frames_to_patches(frames: Tensor, geometry: PatchGeometry) -> Tensor:
    """Normalise frames and cut them into patches, in the layout of transformers' Qwen-VL video processors.

    Args:
        frames: (F, 3, H, W), uint8, with F and the sides as `PatchGeometry.grid` asks.

    Returns:
        (T*h*w, 3*temporal*patch*patch), float32. Rows run over time, then over the blocks of merge x merge patches
        (row by row), then over the patches inside a block; a row holds channel, frame, pixel row, pixel column.
    """
    grid_t, grid_h, grid_w = geometry.grid(tuple(frames.shape))
    merge, patch, temporal = geometry.merge_size, geometry.patch_size, geometry.temporal_patch_size
    blocks = _normalise(frames, geometry).view(
        grid_t, temporal, 3, grid_h // merge, merge, patch, grid_w // merge, merge, patch
    )
    rows = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # (T, h/merge, w/merge, merge, merge, 3, temporal, patch, patch)
    return rows.reshape(grid_t * grid_h * grid_w, 3 * temporal * patch * patch)


def _normalise(frames: Tensor, geometry: PatchGeometry) -> Tensor:
    # The factor 255 goes into mean and std, as transformers does it: (x / 255 - mean) / std to the last bit of theirs.
    mean = torch.tensor(geometry.image_mean, device=frames.device) * 255.0
    std = torch.tensor(geometry.image_std, device=frames.device) * 255.0
    return (frames.to(torch.float32) - mean[:, None, None]) / std[:, None, None]  # (F, 3, H, W)
