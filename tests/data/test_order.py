from collections import Counter

import pytest
import torch

from taro.data.order import EpochSampler, EvaluationBatches


@pytest.mark.parametrize(("length", "batch", "world"), [(7, 2, 1), (7, 2, 3), (1, 4, 2), (8, 4, 2), (9, 4, 2), (3, 1, 4)])
def test_each_sample_once_and_equally_many_batches(length, batch, world):
    ranks = [EvaluationBatches(length, batch, rank, world) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert sorted(index for rank in batches for one in rank for index in one) == list(range(length))
    assert len({len(rank) for rank in batches}) == 1
    assert all(len(rank) == len(own) for rank, own in zip(ranks, batches, strict=True))
    assert all(len(one) <= batch for rank in batches for one in rank)
    assert max(len(one) for rank in batches for one in rank[-1:]) > 0  # no rank waits for nothing


def order(length=10, seed=3, batch_size=2, steps=0, rank=0, world_size=1):
    return list(EpochSampler(length, seed, batch_size, lambda: steps, rank, world_size))


def test_each_epoch_is_another_permutation():
    epochs = [order(steps=5 * epoch) for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs == [order(steps=5 * epoch) for epoch in range(3)]
    assert order(seed=4) != epochs[0]


@pytest.mark.parametrize("step", range(5))
def test_an_epoch_goes_on_after_the_steps_done(step):
    for epoch in (0, 1):
        assert order(steps=5 * epoch + step) == order(steps=5 * epoch)[2 * step :]


@pytest.mark.parametrize(("length", "world_size"), [(10, 2), (11, 2), (11, 3)])
def test_ranks_share_the_epoch(length, world_size):
    parts = [order(length, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {length // world_size}
    together = Counter(index for part in parts for index in part)
    assert max(together.values()) == 1 and len(together) == length // world_size * world_size
    whole = order(length)[: len(together)]
    assert sorted(together) == sorted(whole)


def test_another_order_is_drawn():
    """From the epoch's generator, and shared by ranks and resumed like a permutation."""
    drawn = []

    def draw(generator):
        drawn.append(torch.randint(10, (10,), generator=generator).tolist())
        return drawn[-1]

    whole = list(EpochSampler(10, 3, 2, lambda: 5, draw=draw))
    assert whole == drawn[0]
    ranks = [list(EpochSampler(10, 3, 1, lambda: 7, rank, 2, draw)) for rank in range(2)]
    assert ranks == [drawn[1][4::2], drawn[1][5::2]] and drawn[0] == drawn[1]
