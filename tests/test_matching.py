import itertools
import random

import pytest

from taro.matching import match_freely, match_in_order


def worth(gains, pairs):
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    return sum(gains[i][j] for i, j in pairs)


def all_matchings(rows, columns, crossing):
    for size in range(min(rows, columns) + 1):
        for chosen in itertools.combinations(range(rows), size):
            for others in itertools.permutations(range(columns), size):
                if crossing or list(others) == sorted(others):
                    yield list(zip(chosen, others, strict=True))


@pytest.mark.parametrize(("match", "crossing"), [(match_in_order, False), (match_freely, True)])
def test_no_matching_is_better(match, crossing):
    rng = random.Random(0)
    for rows, columns in itertools.product(range(7), repeat=2):
        for digits in (1, 9) if max(rows, columns) < 6 else (1,):  # one digit: many ties and zeros
            gains = [[max(0.0, round(rng.uniform(-0.5, 1), digits)) for _ in range(columns)] for _ in range(rows)]
            pairs = match(gains)
            assert worth(gains, pairs) == pytest.approx(max(worth(gains, m) for m in all_matchings(rows, columns, crossing)))
            assert all(gains[i][j] > 0 for i, j in pairs)
            assert crossing or pairs == sorted(pairs, key=lambda pair: pair[1])


def test_a_crossing_is_only_for_the_free_matching():
    gains = [[0.0, 0.9], [0.8, 0.0]]
    assert match_in_order(gains) == [(0, 1)]
    assert match_freely(gains) == [(0, 1), (1, 0)]
