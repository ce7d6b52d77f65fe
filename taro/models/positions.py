"""M-RoPE positions by Qwen's own definition (Qwen2-VL, arXiv 2409.12191, section 2.1): text after a video goes on at the
largest position so far plus one. transformers >= 5.3 does otherwise for Qwen2.5-VL videos, so positions are always passed.

P prompt tokens; t, h, w count merged patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mrope_positions(video_mask: Tensor, grids: Sequence[tuple[int, int, int]], interval: float) -> Tensor:
    """Temporal, height and width position of each prompt token.

    Args:
        video_mask: (P,) bool, True where the token stands for a merged patch of the video.
        grids: (t, h, w) of each run of video tokens, in order. Qwen2.5-VL has one run, Qwen3-VL one for each temporal
            patch.
        interval: temporal positions from one temporal patch to the next (Qwen2.5-VL: seconds per temporal patch times
            the config's `tokens_per_second`; rounded down after the product).

    Returns:
        (3, P) int64.

    Raises:
        ValueError: the mask's runs do not have the sizes of the grids.
    """
    expected = [t * h * w for t, h, w in grids]
    runs, start = _runs(video_mask.tolist()), 0
    sizes = [end - begin for begin, end in runs]
    if sizes != expected:
        raise ValueError(f"the prompt has runs of {sizes} video tokens, the grids {list(grids)} need {expected}")
    parts, next_position = [], 0
    for (begin, end), (t, h, w) in zip(runs, grids, strict=True):
        text = begin - start
        parts.append(torch.arange(next_position, next_position + text).expand(3, text))
        next_position += text
        temporal = (torch.arange(t, dtype=torch.float64) * interval).long()
        axes = torch.meshgrid(temporal, torch.arange(h), torch.arange(w), indexing="ij")
        video = torch.stack(axes).reshape(3, -1) + next_position  # (3, t * h * w)
        parts.append(video)
        next_position, start = int(video.max()) + 1, end
    text = len(video_mask) - start
    parts.append(torch.arange(next_position, next_position + text).expand(3, text))
    return torch.cat(parts, dim=1)


def _runs(flags: list[bool]) -> list[tuple[int, int]]:
    """Start and end of each run of True."""
    edges = [i for i in range(len(flags) + 1) if (flags[i] if i < len(flags) else False) != (flags[i - 1] if i else False)]
    return list(zip(edges[::2], edges[1::2], strict=True))
