"""Attention of packed groups, under the names by which transformers finds it (`model.attention`):

- `shared_prefix`: no mask at all. In each group the prompt attends to itself, and each completion to the prompt's keys and its
  own: P^2 + G * C * (P + C) scores a group, and no (S, S) tensor. Any device.
- `flex`: PyTorch's FlexAttention with a block mask; empty blocks are never computed. Trains on GPUs alone.

With both, completions that are decoded share their prompts, too (taro/models/shared_prompts.py).

G completions, P prompt tokens, C tokens of the longest completion of a group; S packed tokens, H heads, d head size.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from taro.models.shared_prompts import SharedPrompts, attend

if TYPE_CHECKING:
    from taro.models.packing import Pack, PackedGroup

SHARED_PREFIX = "shared_prefix"
FLEX = "flex"
OWN = (SHARED_PREFIX, FLEX)


def leave_out_cudnn() -> None:
    """For this process. On recent GPUs PyTorch prefers cuDNN's attention, which makes a plan for each new shape: packs hardly
    ever have the same shape twice, and each decoded token makes the cache longer."""
    torch.backends.cuda.enable_cudnn_sdp(False)


@torch.compiler.disable
def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    pack: Pack | None = None,
    prompts: SharedPrompts | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of the groups of a pack, each for itself; of rows that share `prompts`; transformers' own SDPA without either.

    query (1, H, S, d), key and value (1, H_kv, S, d) -> (1, S, H, d).
    """
    if pack is None:
        return _unpacked(module, query, key, value, attention_mask, scaling, prompts, **kwargs)
    sizes = [len(group) for group in pack.groups]
    states = (tensor.split(sizes, dim=2) for tensor in (query, key, value))
    groups = [_group_attention(*group, scaling) for group in zip(*states, pack.groups, strict=True)]
    return torch.cat(groups, dim=1), None


@torch.compiler.disable
def flex_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    scaling: float | None = None,
    prompts: SharedPrompts | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """FlexAttention where the mask is a BlockMask, transformers' own SDPA where it is not. Shapes as above."""
    if not isinstance(attention_mask, BlockMask):
        return _unpacked(module, query, key, value, attention_mask, scaling, prompts, **kwargs)
    output = _flex(query.device.type)(
        query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return output.transpose(1, 2), None


@cache
def _flex(device: str) -> Any:
    """Compiled once for packs of all lengths; as it is on a CPU, where it serves comparisons."""
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


def _unpacked(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    prompts: SharedPrompts | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if prompts is not None:
        return attend(query, key, value, attention_mask, scaling, module.layer_idx, prompts), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def _group_attention(query: Tensor, key: Tensor, value: Tensor, group: PackedGroup, scaling: float | None) -> Tensor:
    """One group of a pack: (1, S, H, d)."""
    p, shared = group.prompt_length, query.shape[1] // key.shape[1]  # query heads to a key head
    prompt = scaled_dot_product_attention(
        query[:, :, :p], key[:, :, :p], value[:, :, :p], is_causal=True, scale=scaling, enable_gqa=shared > 1
    )
    if not len(group.slots):
        return prompt.transpose(1, 2)
    # The query heads that share a key head become its queries: fused kernels that take a mask don't know shared heads.
    folded = scaled_dot_product_attention(
        _grid(query, group).unflatten(1, (-1, shared)).flatten(2, 3),  # (G, H_kv, H / H_kv * C, d)
        _with_prompt(key, group),
        _with_prompt(value, group),
        attn_mask=group.allowed.repeat(shared, 1),
        scale=scaling,
    )
    completions = folded.unflatten(2, (shared, -1)).flatten(1, 2)  # (G, H, C, d)
    packed = completions.transpose(1, 2).flatten(0, 1).index_select(0, group.slots)  # (S - P, H, d)
    return torch.cat([prompt.transpose(1, 2), packed[None]], dim=1)


def _grid(states: Tensor, group: PackedGroup) -> Tensor:
    """(1, heads, S, d) -> (G, heads, C, d), zeros in the padding."""
    own = states[0, :, group.prompt_length :].transpose(0, 1)  # (S - P, heads, d)
    padded = own.new_zeros(group.response_mask.numel(), *own.shape[1:]).index_copy(0, group.slots, own)
    return padded.unflatten(0, group.response_mask.shape).transpose(1, 2)


def _with_prompt(states: Tensor, group: PackedGroup) -> Tensor:
    """(1, heads, S, d) -> (G, heads, P + C, d): the prompt's, then the row's own."""
    prompt = states[:, :, : group.prompt_length].expand(len(group.response_mask), -1, -1, -1)
    return torch.cat([prompt, _grid(states, group)], dim=2)


for _name, _attention in ((SHARED_PREFIX, shared_prefix_attention), (FLEX, flex_prefix_attention)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, sdpa_mask)
