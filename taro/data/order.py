"""Which samples a rank meets, and in which order: in training, and in an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler

from taro.seeds import stable_seed


class EvaluationBatches(Sampler[list[int]]):
    """Every `world_size`-th of `length` samples, in batches of `batch_size` on each rank. All ranks have equally many, since
    they share what a batch needs (weights, an engine): one with fewer samples ends with an empty batch."""

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.rank, self.world_size = length, batch_size, rank, world_size

    def __len__(self) -> int:
        return math.ceil(math.ceil(self.length / self.world_size) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        own = list(range(self.rank, self.length, self.world_size))
        return iter([own[n * self.batch_size : (n + 1) * self.batch_size] for n in range(len(self))])


class EpochSampler(Sampler[int]):
    """A permutation of all samples for each epoch, which follows from the seed; each rank takes its own, equally many.

    Where in which epoch it starts follows from the steps done, which are asked for whenever an iteration starts: a resumed run
    goes on with the next sample. An epoch has as many steps as batches of `batch_size` on each rank are full.

    Args:
        length: number of samples.
        seed: of all orders.
        batch_size: of each rank.
        steps_done: of the run.
        rank, world_size: whose share is taken.
        draw: the places of as many samples in another order, some left out and others twice; None is a permutation.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        batch_size: int,
        steps_done: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        draw: Callable[[torch.Generator], list[int]] | None = None,
    ) -> None:
        self.length, self.seed, self.batch_size, self.steps_done = length, seed, batch_size, steps_done
        self.rank, self.world_size, self.draw = rank, world_size, draw

    def __len__(self) -> int:
        return self.length // self.world_size

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and step in it."""
        return divmod(self.steps_done(), len(self) // self.batch_size)

    def order(self, epoch: int, *again: int) -> list[int]:
        """The samples of an epoch, of all ranks in turn; `again`: the number of another order of it."""
        generator = torch.Generator().manual_seed(stable_seed("order", self.seed, epoch, *again))
        order = self.draw(generator) if self.draw else torch.randperm(self.length, generator=generator).tolist()
        return order[: len(self) * self.world_size]

    def of_step(self, *again: int) -> list[int]:
        """The samples of the step that comes next, of all ranks in turn; `again`: those that another order has there."""
        epoch, step = self.place
        size = self.batch_size * self.world_size
        return self.order(epoch, *again)[step * size : (step + 1) * size]

    def in_step(self, place: int) -> int:
        """Where a place of this rank's batch is among those of all ranks."""
        return place * self.world_size + self.rank

    def __iter__(self) -> Iterator[int]:
        epoch, step = self.place
        return iter(self.order(epoch)[self.rank :: self.world_size][step * self.batch_size :])
