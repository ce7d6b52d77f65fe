"""Which samples a rank answers in an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch.utils.data import Sampler


class EvaluationBatches(Sampler[list[int]]):
    """Every `world_size`-th sample, in batches. All ranks have equally many, since they share what a batch needs (weights, an
    engine): one with fewer samples ends with an empty batch.

    Args:
        length: number of samples of all ranks.
        batch_size: of each rank.
        rank, world_size: which part.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.rank, self.world_size = length, batch_size, rank, world_size

    def __len__(self) -> int:
        return math.ceil(math.ceil(self.length / self.world_size) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        own = list(range(self.rank, self.length, self.world_size))
        return iter([own[n * self.batch_size : (n + 1) * self.batch_size] for n in range(len(self))])
