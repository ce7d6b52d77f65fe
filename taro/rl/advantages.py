"""Advantages of completions, and the weights of constructed ones.

Shapes: B prompts, G completions per prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, *, scale: Literal["std", "none"] = "std", eps: float = 1e-6) -> Tensor:
    """Rewards relative to their group: (r - mean) / (std + eps) with the unbiased std (GRPO, arXiv 2402.03300).

    `scale="none"` leaves out the division (Dr. GRPO, arXiv 2503.20783). A group with equal rewards gets exact zeros.
    (B, G) -> (B, G). Raises ValueError for other shapes, for G = 1 and for an unknown `scale`.
    """
    centred = _centred(rewards)
    if scale == "none":
        return centred
    if scale == "std":
        return centred / (rewards.std(dim=1, keepdim=True) + eps)
    raise ValueError(f'scale must be "std" or "none", got {scale!r}')


def batch_advantages(rewards: Tensor, batch: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """(r - mean of the group) / (std + eps), with the unbiased std of all rewards of the batch. (B, G) -> (B, G).

    `batch`: its rewards, of any shape, where `rewards` are a part of them."""
    return _centred(rewards) / ((rewards if batch is None else batch).std() + eps)


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """r - mean of the group's others (RLOO, arXiv 2402.14740): the centred reward times G / (G - 1). (B, G) -> (B, G)."""
    return _centred(rewards) * (rewards.shape[1] / (rewards.shape[1] - 1))


def separate_advantages(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], *, eps: float = 1e-6
) -> Tensor:
    """Each reward normalised in its group on its own, then the weighted sum (GDPO, arXiv 2601.05242): a reward of small spread
    counts as much as one of large. GDPO's normalisation of the sum over the batch is left out: more rewards, or
    larger weights, are larger advantages. (B, G) each -> (B, G)."""
    return weighted_sum({name: group_advantages(values, eps=eps) for name, values in rewards.items()}, weights)


def weighted_sum(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Of tensors of one shape."""
    return torch.stack([weights[name] * values for name, values in rewards.items()]).sum(0)


def dgrpo_weights(accuracy: Tensor) -> Tensor:
    """(d + 1) / 2 with d = clamp(2 - mean, 0, 1): what the advantages of a group are multiplied with (VITAL's DGRPO, arXiv
    2508.04416). (B, G) -> (B,), in [0.5, 1].

    The mean is to be that of accuracy and format, from 0 to 2: groups get 1 up to a mean of 1, and 0.5 where all is right. The
    released code takes that of all rewards: with its bonus for tools it is above 2, and the weight 0.5, where training works.
    The mean of an accuracy in [0, 1] alone gives every group 1.
    """
    return ((2 - accuracy.mean(dim=-1)).clamp(0, 1) + 1) / 2


class EMAStd:
    """Centred rewards over the moving std of their task (EMA-GRPO of OneThinker, arXiv 2512.03043).

    The first two moments of all rewards of a task (over prompts, so that what these differ by is in the std) are averaged over
    batches as m <- decay m + (1 - decay) m_batch; a task's first batch sets them. std = sqrt(m2 - m1^2), at least `floor`.
    The average takes the batch in before it is used.

    Args:
        decay: of the averages.
        form: what becomes of an advantage beyond `bound`: it is cut to it (`published`), or its whole group is divided by its
            own biased std instead (`released`).
        bound: of an advantage.
        floor: of a std.
    """

    def __init__(
        self,
        decay: float = 0.99,
        *,
        form: Literal["published", "released"] = "published",
        bound: float = 5.0,
        floor: float = 1e-3,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        if form not in ("published", "released"):
            raise ValueError(f'form must be "published" or "released", got {form!r}')
        self.decay, self.form, self.bound, self.floor = decay, form, bound, floor
        self.moments: dict[str, tuple[float, float]] = {}  # m1 and m2 by task

    def __call__(self, rewards: Tensor, tasks: Sequence[str]) -> Tensor:
        """Update with a batch, and return its advantages. rewards (B, G), tasks (B) -> (B, G)."""
        self.update(rewards, tasks)
        return self.advantages(rewards, tasks)

    def update(self, rewards: Tensor, tasks: Sequence[str]) -> None:
        """Take in a batch: that of all ranks, so that each has the same moments. rewards (B, G), tasks (B)."""
        _require_groups("rewards", rewards)
        for task in dict.fromkeys(tasks):
            own = rewards[[name == task for name in tasks]].double()
            batch = (float(own.mean()), float((own**2).mean()))
            before = self.moments.get(task, batch)
            self.moments[task] = tuple(
                self.decay * old + (1 - self.decay) * new for old, new in zip(before, batch, strict=True)
            )

    def std(self, task: str) -> float:
        first, second = self.moments[task]
        return max(self.floor, max(0.0, second - first**2) ** 0.5)

    def advantages(self, rewards: Tensor, tasks: Sequence[str]) -> Tensor:
        """With the moments as they are. rewards (B, G), tasks (B) -> (B, G)."""
        centred = _centred(rewards)
        scaled = centred / centred.new_tensor([self.std(task) for task in tasks])[:, None]
        if self.form == "published":
            return scaled.clamp(-self.bound, self.bound)
        own = rewards.std(dim=1, keepdim=True, correction=0).clamp(min=self.floor)  # (B, 1)
        beyond = scaled.abs().amax(dim=1, keepdim=True) > self.bound
        return torch.where(beyond, centred / own, scaled)

    def state_dict(self) -> dict[str, Any]:
        return {"moments": dict(self.moments)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.moments = {task: tuple(moments) for task, moments in state["moments"].items()}


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


def _centred(rewards: Tensor) -> Tensor:
    """Minus the group's mean; exact zeros where all are equal. Raises ValueError for other shapes and for G = 1."""
    _require_groups("rewards", rewards)
    if rewards.shape[1] < 2:
        raise ValueError(f"rewards must have at least 2 completions per prompt, got the shape {tuple(rewards.shape)}")
    centred = rewards - rewards.mean(dim=1, keepdim=True)  # (B, G)
    # The rounded mean of equal numbers may differ from them; divided by a std of rounding errors it would be a signal.
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)  # (B, 1)
    return centred.masked_fill(equal, 0.0)


def _require_groups(name: str, values: Tensor) -> None:
    if values.dim() != 2:
        raise ValueError(f"{name} must have the shape (prompts, completions per prompt), got {tuple(values.shape)}")
