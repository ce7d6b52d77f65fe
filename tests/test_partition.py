import random
from itertools import product

import pytest

from taro.partition import divide, even_out, imbalance


def largest(costs, parts):
    return max(sum(costs[number] for number in part) for part in parts)


def best(costs, count):
    """By trying all ways."""
    return min(
        max(sum(cost for cost, place in zip(costs, places, strict=True) if place == part) for part in range(count))
        for places in product(range(count), repeat=len(costs))
    )


@pytest.mark.parametrize(("count", "numbers"), [(2, 4), (2, 8), (3, 6), (4, 5)])
def test_nearly_as_even_as_the_best_of_all_ways(count, numbers):
    generator = random.Random(count * numbers)
    for _ in range(20):
        costs = [generator.uniform(3, 9) for _ in range(numbers)]
        before = [list(range(numbers))[place::count] for place in range(count)]
        after = even_out(costs, before)
        assert sorted(number for part in after for number in part) == list(range(numbers))
        assert all(part == sorted(part) for part in after)
        assert largest(costs, after) <= min(largest(costs, before), 1.1 * best(costs, count))
        assert largest(costs, divide(costs, count)) <= 1.1 * best(costs, count)


@pytest.mark.parametrize(
    ("costs", "before", "after"),
    [
        ([5, 1, 1, 1], [[0, 1], [2, 3]], [[0], [1, 2, 3]]),  # moved
        ([6, 5, 1, 2], [[0, 1], [2, 3]], [[1, 3], [0, 2]]),  # exchanged
        ([1, 2, 3, 4], [[], [0, 1, 2, 3], []], [[3], [0, 1], [2]]),
        ([9, 1, 1], [[0], [1], [2]], [[0], [1], [2]]),  # can't be any better
        ([2, 2, 2, 2], [[0, 1], [2, 3]], [[0, 1], [2, 3]]),
        ([0, 0], [[0, 1], []], [[0, 1], []]),
        ([], [[], []], [[], []]),
    ],
)
def test_small_cases(costs, before, after):
    assert even_out(costs, before) == after


def test_no_more_moves_than_are_asked_for():
    costs, before = [1.0] * 11 + [1.2], [list(range(6)), list(range(6, 12))]  # 6 and 6.2: 1.6 % above the mean
    assert imbalance(costs, before) == pytest.approx(0.1 / 6.1)
    assert even_out(costs, before, allowed=0.02) == before
    far = [list(range(8)), list(range(8, 12))]  # 8 and 4.2
    assert [len(part) for part in even_out(costs, far, allowed=0.2)] == [7, 5]
    assert [len(part) for part in even_out(costs, far, allowed=0.02)] == [6, 6]
    assert even_out(costs, far, allowed=float("inf")) == far


def test_imbalance():
    assert imbalance([3.0, 1.0], [[0], [1]]) == 0.5
    assert imbalance([0.0], [[0], []]) == imbalance([], [[], []]) == 0.0
