import pytest

from taro.data.order import EvaluationBatches


@pytest.mark.parametrize(("length", "batch", "world"), [(7, 2, 1), (7, 2, 3), (1, 4, 2), (8, 4, 2), (9, 4, 2), (3, 1, 4)])
def test_each_sample_once_and_equally_many_batches(length, batch, world):
    ranks = [EvaluationBatches(length, batch, rank, world) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert sorted(index for rank in batches for one in rank for index in one) == list(range(length))
    assert len({len(rank) for rank in batches}) == 1
    assert all(len(rank) == len(own) for rank, own in zip(ranks, batches, strict=True))
    assert all(len(one) <= batch for rank in batches for one in rank)
    assert max(len(one) for rank in batches for one in rank[-1:]) > 0  # no rank waits for nothing
