"""Where an engine's reading of a prompt differs from the trainer's: an error that shows the first difference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taro.errors import TaroError


class PromptMismatch(TaroError):
    """The engine and the trainer don't see the same prompt: nothing that is sampled could be learned from."""


def compare_ids(engine: Sequence[int], trainer: Sequence[int]) -> None:
    """Token ids of a prompt, vision tokens expanded.

    Raises:
        PromptMismatch: they differ.
    """
    if list(engine) == list(trainer):
        return
    place = next((i for i, (a, b) in enumerate(zip(engine, trainer, strict=False)) if a != b), min(len(engine), len(trainer)))
    near = slice(max(0, place - 3), place + 4)
    raise PromptMismatch(
        f"the engine expands a prompt to {len(engine)} tokens, the trainer to {len(trainer)}; the first difference is at "
        f"{place}: {list(engine[near])} against {list(trainer[near])}"
    )


def compare_values(name: str, engine: Tensor, trainer: Tensor, tolerance: float = 1e-5) -> None:
    """Grids or pixels of a prompt's video.

    Raises:
        PromptMismatch: other shapes, or values that differ by more than `tolerance`.
    """
    if engine.shape != trainer.shape:
        raise PromptMismatch(f"{name}: the engine has the shape {tuple(engine.shape)}, the trainer {tuple(trainer.shape)}")
    difference = (engine.double() - trainer.double()).abs().flatten()
    if difference.numel() and not difference.max() <= tolerance:
        place = int(torch.nonzero(~(difference <= tolerance))[0])
        raise PromptMismatch(
            f"{name}: the first difference between engine and trainer is at {place} of {difference.numel()}: "
            f"{float(engine.flatten()[place])} against {float(trainer.flatten()[place])}"
        )
