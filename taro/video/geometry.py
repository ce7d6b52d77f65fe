"""How large pictures are, and how a model cuts them: what reading a video has to know of the model.

Shapes: F frames, H x W pixels, T x h x w the grid in patches (T = F / temporal_patch_size).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PatchGeometry:
    """How a model cuts and normalises frames; every value comes from its config and preprocessor config.

    The defaults are Qwen2.5-VL's. Qwen3-VL has patch_size 16 and 0.5 for each mean and std.
    """

    patch_size: int = 14
    """Side of a patch, pixels."""
    merge_size: int = 2
    """Patches per side that become one visual token."""
    temporal_patch_size: int = 2
    """Frames in a patch."""
    image_mean: tuple[float, float, float] = CLIP_MEAN
    """Per channel (RGB), of pixel values in [0, 1]."""
    image_std: tuple[float, float, float] = CLIP_STD
    """Per channel (RGB), of pixel values in [0, 1]."""

    @property
    def factor(self) -> int:
        """Pixels that each side of a frame must be a multiple of; also the side of one visual token."""
        return self.patch_size * self.merge_size

    def grid(self, frames_shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The (T, h, w) grid in patches of frames (F, 3, H, W).

        Raises ValueError where F is no multiple of `temporal_patch_size`, or a side none of `factor`.
        """
        if len(frames_shape) != 4 or frames_shape[1] != 3:
            raise ValueError(f"frames must have the shape (F, 3, H, W), got {tuple(frames_shape)}")
        count, _, height, width = frames_shape
        if count < 1 or count % self.temporal_patch_size:
            raise ValueError(f"got {count} frames, need a positive multiple of {self.temporal_patch_size}")
        if min(height, width) < 1 or height % self.factor or width % self.factor:
            raise ValueError(f"got {height} x {width} pixels, both sides must be positive multiples of {self.factor}")
        return count // self.temporal_patch_size, height // self.patch_size, width // self.patch_size


def resize_frames(frames: Tensor, height: int, width: int) -> Tensor:
    """Resize frames (F, 3, H, W) uint8 to (F, 3, height, width) uint8: bicubic, with antialiasing.

    Computed in float32, clamped to [0, 255] and rounded to the nearest value, which is what torchvision's
    `transforms.functional.resize` (and so qwen-vl-utils) does with uint8 tensors.
    """
    if frames.shape[-2:] == (height, width):
        return frames
    resized = interpolate(frames.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp_(0, 255).round_().to(torch.uint8)  # (F, 3, height, width)


def frames_to_patches(frames: Tensor, geometry: PatchGeometry) -> Tensor:
    """Normalise frames (F, 3, H, W) uint8 and cut them into patches, in the layout of transformers' Qwen-VL video processors.

    Returns (T*h*w, 3*temporal*patch*patch) float32. Rows run over time, then over the blocks of merge x merge patches (row by
    row), then over the patches inside a block; a row holds channel, frame, pixel row, pixel column.
    """
    grid_t, grid_h, grid_w = geometry.grid(tuple(frames.shape))
    merge, patch, temporal = geometry.merge_size, geometry.patch_size, geometry.temporal_patch_size
    # The factor 255 goes into mean and std, as transformers does it: (x / 255 - mean) / std to the last bit of theirs.
    mean, std = (torch.tensor(of, device=frames.device) * 255.0 for of in (geometry.image_mean, geometry.image_std))
    normal = (frames.to(torch.float32) - mean[:, None, None]) / std[:, None, None]  # (F, 3, H, W)
    blocks = normal.view(grid_t, temporal, 3, grid_h // merge, merge, patch, grid_w // merge, merge, patch)
    rows = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # (T, h/merge, w/merge, merge, merge, 3, temporal, patch, patch)
    return rows.reshape(grid_t * grid_h * grid_w, 3 * temporal * patch * patch)
