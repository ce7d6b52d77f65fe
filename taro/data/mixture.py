"""Which samples an epoch has: how many of which task, and the hard ones more often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from taro.errors import TaroError
from taro.messages import list_lines


class MixtureError(TaroError):
    """Weights that the samples can't be drawn by."""


class TaskMixture:
    """Draws an epoch of as many samples as there are, a share of each task, in a random order. The samples of a task come round
    one after the other, in a new order each time, so none comes twice more often than another; or each is drawn by chance.

    Args:
        tasks: of each sample.
        weights: of each task among the samples that are drawn, whatever they add up to; 0 leaves a task out. None: as many of
            each as there are.
        chances: (N,) of each sample among those of its task, whatever they add up to; None: they come round.

    Raises MixtureError where a task has no weight or no sample, or none that may be drawn.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float] | None, chances: Tensor | None = None) -> None:
        weights = Counter(tasks) if weights is None else weights
        if problems := list(_problems(Counter(tasks), weights)):
            raise MixtureError(list_lines("data.task_weights can't be used:", problems))
        self.places = {task: [place for place, own in enumerate(tasks) if own == task] for task in weights}
        self.counts, self.chances = _share(len(tasks), weights), chances
        unlikely = [task for task, places in self.places.items() if self.counts[task] and self._none_of(places)]
        if unlikely:
            raise MixtureError(f"data.difficulty_weights: all samples of {', '.join(unlikely)} have the weight 0")

    def __call__(self, generator: torch.Generator) -> list[int]:
        """Places of the samples of an epoch."""
        drawn = [place for task, count in self.counts.items() for place in self._draw(self.places[task], count, generator)]
        return [drawn[k] for k in torch.randperm(len(drawn), generator=generator).tolist()]

    def _draw(self, places: list[int], count: int, generator: torch.Generator) -> list[int]:
        if self.chances is not None and count:
            chosen = torch.multinomial(self.chances[places], count, replacement=True, generator=generator)
            return [places[k] for k in chosen.tolist()]
        drawn: list[int] = []
        while len(drawn) < count:
            drawn += [places[k] for k in torch.randperm(len(places), generator=generator).tolist()]
        return drawn[:count]

    def _none_of(self, places: list[int]) -> bool:
        return self.chances is not None and not self.chances[places].any()


def _share(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to `total`; what is left after rounding down goes to the largest remainders."""
    exact = {task: total * weight / sum(weights.values()) for task, weight in weights.items()}
    counts = {task: math.floor(count) for task, count in exact.items()}
    for task in sorted(exact, key=lambda task: counts[task] - exact[task])[: total - sum(counts.values())]:
        counts[task] += 1
    return counts


def _problems(samples: Mapping[str, int], weights: Mapping[str, float]):
    for task, weight in weights.items():
        if not 0 <= weight < math.inf:
            yield f"{task} = {weight}: must be a number of at least 0"
        elif task not in samples:
            yield f"{task}: no training sample is of this task; there are {', '.join(samples)}"
    for task, count in samples.items():
        if task not in weights:
            yield f"{task}: has {count} training samples and no weight; 0 leaves them out"
    if weights and not any(weights.values()):
        yield "all are 0: nothing would be drawn"
