"""Attention of the vision tower, under the name by which transformers finds it: windows and pictures of one length are the
rows of one call, where transformers calls it for each.

N patches, W segments of one length L, H heads, d head size.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

SEGMENTS = "flash_segments"  # where a name has "flash" in it, transformers hands over all segments at once


def attend_to_segments(tower: nn.Module) -> None:
    """Have a tower of transformers attend so. Its config is a copy from here on: models are made from that of the whole, and
    transformers would look for a package of this name."""
    shared, own = tower.config, copy.copy(tower.config)
    own._attn_implementation = SEGMENTS
    for module in tower.modules():
        if getattr(module, "config", None) is shared:
            module.config = own


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    cu_seq_lens_q: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Each patch attends to those of its segment.

    query, key, value (1, H, N, d) -> (1, N, H, d). `cu_seq_lens_q`: where segments begin, and N.
    """
    patches = [states[0].transpose(0, 1) for states in (query, key, value)]  # (N, H, d) each
    output = torch.empty_like(patches[0])
    for places in _places_by_length(cu_seq_lens_q):
        rows = (states[places].transpose(1, 2) for states in patches)  # (W, H, L, d) each
        output[places] = scaled_dot_product_attention(*rows, scale=scaling).transpose(1, 2)
    return output[None], None


def _places_by_length(bounds: Tensor) -> list[Tensor]:
    """The patches of the segments of each length, (W, L). One tensor of bounds goes to many layers: it is read once, since the
    host waits for the device then."""
    if not hasattr(bounds, "places"):
        starts, lengths = bounds[:-1], bounds.diff()
        bounds.places = [
            starts[lengths == length, None] + torch.arange(length, device=bounds.device)
            for length in lengths.unique().tolist()
        ]
    return bounds.places


AttentionInterface.register(SEGMENTS, segment_attention)
