"""Attention of a packed group without its mask: the prompt attends to itself, and each completion to the prompt's keys and its
own. P^2 + G * C * (P + C) scores instead of (P + G * C)^2, and no (S, S) tensor.

G completions, P prompt tokens, C tokens of the longest completion, S = P + sum(C_i) packed tokens, H heads, d head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX = "shared_prefix"  # the name under which transformers finds it: model.attention


@dataclass(frozen=True)
class GroupLayout:
    """Where the tokens of a pack belong. Made by `PackedGroup.layout`."""

    prompt_length: int
    slots: Tensor  # (S - P,) place of each completion token in the padded (G, C) grid, row by row
    rows: int  # G
    columns: int  # C
    allowed: Tensor  # (C, P + C) bool, what the token in this column sees: the prompt, and its row up to itself


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    group_layout: GroupLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one pack where there is a layout, and transformers' own SDPA where there is none.

    query (1, H, S, d), key and value (1, H_kv, S, d) -> (1, S, H, d).
    """
    if group_layout is None:
        if query.shape[2] == 1:
            return _decode(query, key, value, attention_mask, scaling), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    p = group_layout.prompt_length
    heads = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    prompt = scaled_dot_product_attention(query[:, :, :p], key[:, :, :p], value[:, :, :p], is_causal=True, **heads)
    if not len(group_layout.slots):
        return prompt.transpose(1, 2), None
    completions = scaled_dot_product_attention(
        _grid(query, group_layout),
        _with_prompt(key, group_layout),
        _with_prompt(value, group_layout),
        attn_mask=group_layout.allowed,
        **heads,
    )  # (G, H, C, d)
    packed = completions.transpose(1, 2).flatten(0, 1).index_select(0, group_layout.slots)  # (S - P, H, d)
    return torch.cat([prompt.transpose(1, 2), packed[None]], dim=1), None


def _decode(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """One new token of each row, (R, 1, H, d): the query heads that share a key head are its queries, so that no key is
    repeated. `mask` is (R, 1, 1, K)."""
    rows, heads, _, size = query.shape
    folded = query.reshape(rows, key.shape[1], -1, size)  # (R, H_kv, H / H_kv, d)
    output = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(rows, 1, heads, size)


def _grid(states: Tensor, layout: GroupLayout) -> Tensor:
    """(1, heads, S, d) -> (G, heads, C, d), zeros in the padding."""
    own = states[0, :, layout.prompt_length :].transpose(0, 1)  # (S - P, heads, d)
    padded = own.new_zeros(layout.rows * layout.columns, *own.shape[1:]).index_copy(0, layout.slots, own)
    return padded.unflatten(0, (layout.rows, layout.columns)).transpose(1, 2)


def _with_prompt(states: Tensor, layout: GroupLayout) -> Tensor:
    """(1, heads, S, d) -> (G, heads, P + C, d): the prompt's, then the row's own."""
    prompt = states[:, :, : layout.prompt_length].expand(layout.rows, -1, -1, -1)
    return torch.cat([prompt, _grid(states, layout)], dim=2)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
