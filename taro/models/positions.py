"""M-RoPE positions by Qwen's own definition (Qwen2-VL, arXiv 2409.12191, section 2.1): text after a video goes on at the
largest position so far plus one. transformers >= 5.3 does otherwise for Qwen2.5-VL videos, so positions are always passed.

P prompt tokens; t, h, w count merged patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mrope_positions(video_mask: Tensor, grids: Sequence[tuple[int, int, int]], interval: float) -> Tensor:
    """Temporal, height and width position of each prompt token, (3, P) int64.

    Args:
        video_mask: (P,) bool, True where the token stands for a merged patch of the video.
        grids: (t, h, w) of each run of video tokens, in order. Qwen2.5-VL has one run, Qwen3-VL one for each temporal
            patch.
        interval: temporal positions from one temporal patch to the next (Qwen2.5-VL: seconds per temporal patch times
            the config's `tokens_per_second`; rounded down after the product).

    Raises:
        ValueError: the mask's runs do not have the sizes of the grids.
    """
    is_video, sizes = torch.unique_consecutive(video_mask, return_counts=True)  # (runs,)
    expected = [t * h * w for t, h, w in grids]
    if (found := sizes[is_video].tolist()) != expected:
        raise ValueError(f"the prompt has runs of {found} video tokens, the grids {list(grids)} need {expected}")
    parts, following, remaining = [], 0, iter(grids)
    for video, size in zip(is_video.tolist(), sizes.tolist(), strict=True):
        part = torch.arange(size).expand(3, size)
        if video:
            t, h, w = next(remaining)
            temporal = (torch.arange(t, dtype=torch.float64) * interval).long()
            axes = torch.meshgrid(temporal, torch.arange(h), torch.arange(w), indexing="ij")
            part = torch.stack(axes).reshape(3, -1)  # (3, t * h * w)
        parts.append(part + following)
        following = int(parts[-1].max()) + 1
    return torch.cat(parts, dim=1)
