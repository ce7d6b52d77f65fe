"""Advantages within groups, and the weights of constructed completions.

Shapes: B prompts, G completions per prompt.
"""

from typing import Literal

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, *, scale: Literal["std", "none"] = "std", eps: float = 1e-6) -> Tensor:
    """Rewards relative to their group: (r - mean) / (std + eps) with the unbiased std (GRPO, arXiv 2402.03300).

    `scale="none"` leaves out the division (Dr. GRPO, arXiv 2503.20783). A group with equal rewards gets exact zeros.
    (B, G) -> (B, G). Raises ValueError for other shapes, for G = 1 and for an unknown `scale`.
    """
    _require_groups("rewards", rewards)
    if rewards.shape[1] < 2:
        raise ValueError(f"rewards must have at least 2 completions per prompt, got the shape {tuple(rewards.shape)}")
    centred = rewards - rewards.mean(dim=1, keepdim=True)  # (B, G)
    # The rounded mean of equal numbers may differ from them; divided by a std of rounding errors it would be a signal.
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)  # (B, 1)
    centred = centred.masked_fill(equal, 0.0)
    if scale == "none":
        return centred
    if scale == "std":
        return centred / (rewards.std(dim=1, keepdim=True) + eps)
    raise ValueError(f'scale must be "std" or "none", got {scale!r}')


def constructed_weights(
    advantages: Tensor, *, mode: Literal["mask", "awr", "clone", "raft"] = "mask", beta: float = 1.0
) -> Tensor:
    """What replaces the advantage of a constructed completion in its loss -A log pi (TaRO, arXiv 2606.09248).

    `mask`: max(A, 0), `awr`: exp(A / beta), `clone`: 1 where A > 0, `raft`: 1 for the best of the group, ties included.
    (B, G) -> (B, G). Raises ValueError for other shapes, an unknown `mode` and `beta <= 0`.
    """
    _require_groups("advantages", advantages)
    if mode == "mask":
        return advantages.clamp(min=0)
    if mode == "awr":
        if beta <= 0:
            raise ValueError(f"beta must be > 0, got {beta}")
        return torch.exp(advantages / beta)
    if mode == "clone":
        return (advantages > 0).to(advantages.dtype)
    if mode == "raft":
        return (advantages == advantages.amax(dim=1, keepdim=True)).to(advantages.dtype)
    raise ValueError(f'mode must be "mask", "awr", "clone" or "raft", got {mode!r}')


def _require_groups(name: str, values: Tensor) -> None:
    if values.dim() != 2:
        raise ValueError(f"{name} must have the shape (prompts, completions per prompt), got {tuple(values.shape)}")
