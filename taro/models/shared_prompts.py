"""Attention of completions that are decoded to prompts whose keys and values are there once, not once for each completion
(bifurcated attention, arXiv 2403.08845): a token reads the P keys of a prompt, in place of P for each of its rows.

N prompts, P tokens of the longest, R rows (completions), L tokens of this call, K of a row so far, H heads, H_kv key heads, d a
head's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class SharedPrompts:
    """What all rows of a prompt see."""

    keys: tuple[Tensor | None, ...]  # of each decoder layer, (N, H_kv, P, d), left-padded; None: it is recurrent
    values: tuple[Tensor | None, ...]
    mask: Tensor  # (N, P) bool, False in the padding
    owners: Tensor  # (R,) the number of each row's prompt, in order

    def select(self, rows: Tensor) -> SharedPrompts:
        """For these rows alone, (R',) in order, and the prompts that they are of."""
        left, owners = self.owners[rows].unique(return_inverse=True)
        if len(left) == len(self.mask):
            return SharedPrompts(self.keys, self.values, self.mask, owners)
        keys, values = (
            tuple(layer if layer is None else layer[left] for layer in layers) for layers in (self.keys, self.values)
        )
        return SharedPrompts(keys, values, self.mask[left], owners)

    @cached_property
    def bias(self) -> Tensor | None:
        """(N, 1, 1, P), what the padding's scores are lowered by; None where there is no padding."""
        if self.mask.all():
            return None
        return torch.zeros(self.mask.shape, device=self.mask.device).masked_fill_(~self.mask, float("-inf"))[:, None, None, :]

    @cached_property
    def columns(self) -> int:
        """Rows of the prompt that has the most."""
        return int(self.owners.bincount().max())

    @cached_property
    def slots(self) -> Tensor:
        """(R,) place of each row in the grid (N, columns)."""
        counts = self.owners.bincount()
        within = torch.arange(len(self.owners), device=counts.device) - (counts.cumsum(0) - counts)[self.owners]
        return self.owners * self.columns + within


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, layer: int, prompts: SharedPrompts
) -> Tensor:
    """Attention of each row to its prompt and to itself, (R, L, H, d).

    Args:
        query: (R, H, L, d).
        key, value: (R, H_kv, K, d), of the row itself.
        mask: (R, 1, L, K) bool, what of it is seen; None: all up to the query.
        layer: the decoder layer's number.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    of_prompt = (prompts.keys[layer], prompts.values[layer])
    if query.shape[2] > 1:
        return _read(query, key, value, mask, scaling, of_prompt, prompts)
    with torch.autocast(query.device.type, enabled=False):  # which would round scores and their sums
        return _decode(query, key, value, mask, scaling, of_prompt, prompts)


def _decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    of_prompt: tuple[Tensor, Tensor],
    prompts: SharedPrompts,
) -> Tensor:
    """One token of each row: (R, 1, H, d)."""
    rows, heads, _, size = query.shape
    folded = query.reshape(rows, key.shape[1], -1, size).float() * scaling  # the heads that share a key head are its queries
    bias = None if mask is None else torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, float("-inf"))
    output_own, total_own, highest_own = _part(folded, key, value, bias)
    output, total, highest = (
        _to_rows(part, prompts) for part in _part(_to_grid(folded, prompts), *of_prompt, prompts.bias)
    )
    top = torch.maximum(highest, highest_own)
    share, share_own = (highest - top).exp(), (highest_own - top).exp()
    together = (output * share + output_own * share_own) / (total * share + total_own * share_own)
    return together.to(query.dtype).reshape(rows, 1, heads, size)


def _part(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Attention to some of the keys, to be added up with that to others: weights exp(score - highest), of which the weighted
    sum of the values (..., d), the sum, and the highest score (..., 1) each. In float32."""
    scores = query @ key.float().transpose(-1, -2)
    if bias is not None:
        scores += bias
    highest = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)  # padding may see nothing of its own
    weights = scores.sub_(highest).exp_()
    return weights @ value.float(), weights.sum(-1, keepdim=True), highest


def _to_grid(rows: Tensor, prompts: SharedPrompts) -> Tensor:
    """(R, H_kv, n, d) -> (N, H_kv, columns * n, d), all rows of a prompt as its queries."""
    grid = rows.new_zeros(len(prompts.mask) * prompts.columns, *rows.shape[1:]).index_copy_(0, prompts.slots, rows)
    return grid.unflatten(0, (-1, prompts.columns)).transpose(1, 2).flatten(2, 3)


def _to_rows(grid: Tensor, prompts: SharedPrompts) -> Tensor:
    """Back: (N, H_kv, columns * n, d) -> (R, H_kv, n, d)."""
    slots = grid.unflatten(2, (prompts.columns, -1)).transpose(1, 2).flatten(0, 1)
    return slots.index_select(0, prompts.slots)


def _read(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    of_prompt: tuple[Tensor, Tensor],
    prompts: SharedPrompts,
) -> Tensor:
    """Several tokens of each row: (R, L, H, d). The prompt's keys stand before each row's for as long as this layer takes."""
    keys, values = (torch.cat([shared[prompts.owners], own], 2) for shared, own in zip(of_prompt, (key, value), strict=True))
    length, own = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.ones(length, own, dtype=torch.bool, device=query.device).tril(own - length)
    seen = prompts.mask[prompts.owners][:, None, None, :].expand(-1, 1, length, -1)
    together = torch.cat([seen, mask.expand(len(query), 1, -1, -1)], -1)
    # Heads that share a key head are its queries: no fused kernel of GPUs takes a mask where there are fewer key heads.
    folds = query.shape[1] // key.shape[1]
    folded = query.unflatten(1, (-1, folds)).flatten(2, 3)  # (R, H_kv, folds * L, d)
    output = scaled_dot_product_attention(folded, keys, values, attn_mask=together.repeat(1, 1, folds, 1), scale=scaling)
    return output.unflatten(2, (folds, -1)).flatten(1, 2).transpose(1, 2)
