"""How hard samples are for a model, as `python -m taro.prepare.difficulty` has found, and how often each is drawn for that.

A row's `difficulty` is the mean IoU of the model's answers in percent, as in Time-R1's files: the higher, the easier.
N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from taro.data.samples import Sample
from taro.errors import TaroError
from taro.messages import describe_fault, list_lines
from taro.rows import is_number

DIFFICULTY = "difficulty"  # of a row
CENTRE, SIGMA, BINS = 0.05, 0.2, 20  # TimeLens'
Weighting = Literal["timelens", "timelens2"]


class DifficultyError(TaroError):
    """Difficulties that are not there, or can't be read."""


def mean_ious(samples: Iterable[Sample]) -> dict[str, float]:
    """In [0, 1] by id, of the samples that have a `difficulty`. Raises DifficultyError where one is no percentage."""
    ious, wrong = {}, []
    for sample in samples:
        value = sample.extra.get(DIFFICULTY)
        if (fault := difficulty_fault(value)) is not None:
            wrong.append(f"{sample.id}: {fault}")
        elif value is not None:
            ious[sample.id] = value / 100
    if wrong:
        raise DifficultyError(list_lines(f"{len(wrong)} difficulties can't be read:", wrong))
    return ious


def difficulty_fault(value: object) -> str | None:
    """What is wrong with the `difficulty` of a row; None for a good one, or none."""
    if value is None or (is_number(value) and 0 <= value <= 100):
        return None
    return describe_fault(DIFFICULTY, value, "0 to 100 (percent), or null")


def draw_weights(samples: Sequence[Sample], weighting: Weighting) -> Tensor:
    """How likely each is drawn, whatever they add up to, (N,). Raises DifficultyError where one has no difficulty."""
    ious = mean_ious(samples)
    if missing := [sample.id for sample in samples if sample.id not in ious]:
        head = f"data.difficulty_weights = {weighting}: {len(missing)} of {len(samples)} training samples have no {DIFFICULTY}"
        advice = "\nScore them (python -m taro.prepare.difficulty), leave them out (... difficulty select), or set it to null."
        raise DifficultyError(list_lines(f"{head}:", missing) + advice)
    values = torch.tensor([ious[sample.id] for sample in samples], dtype=torch.float64)  # (N,)
    weights = squared_distance(values) if weighting == "timelens2" else normal_over_density(values)
    if not weights.any():
        raise DifficultyError(f"data.difficulty_weights = {weighting}: all {len(samples)} samples are solved: nothing to draw")
    return weights


def squared_distance(ious: Tensor) -> Tensor:
    """(1 - IoU)^2: what is solved is not drawn (TimeLens2, arXiv 2607.17423). (N,) -> (N,)."""
    return (1 - ious) ** 2


def normal_over_density(ious: Tensor) -> Tensor:
    """A normal around 0.05, of width 0.2, over the number of samples in the same of 20 bins: what is drawn is spread like that,
    whatever there is, where all samples are of one task (TimeLens, arXiv 2512.14698). (N,) -> (N,)."""
    bins = (ious * BINS).long().clamp(max=BINS - 1)  # (N,)
    return torch.exp(-((ious - CENTRE) ** 2) / (2 * SIGMA**2)) / torch.bincount(bins)[bins]
