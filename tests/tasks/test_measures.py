import itertools
import random

import pytest

from taro.spans import temporal_iou
from taro.tasks.measures import f1_at, f1_scores, mean_paired_iou, paired_ious


def slow_f1(predicted, truth, level):
    """Over all ways to pair the two."""
    short, long = sorted((predicted, truth), key=len)
    pairs = (zip(short, order, strict=True) for order in itertools.permutations(long, len(short)))
    most = max(sum(temporal_iou(*pair) >= level for pair in pairing) for pairing in pairs)
    return 2 * most / (len(short) + len(long))


def test_f1_against_all_pairings():
    rng = random.Random(0)
    for _ in range(200):
        sides = [[sorted((rng.randint(0, 9), rng.randint(0, 9))) for _ in range(rng.randint(1, 4))] for _ in range(2)]
        level = rng.choice((0.3, 0.5, 0.7))
        assert f1_at(*sides, level) == pytest.approx(slow_f1(*sides, level))


def test_empty_sides():
    assert f1_at([], [], 0.5) == 1.0 and f1_at([], [(0, 1)], 0.5) == f1_at([(0, 1)], [], 0.5) == 0.0
    assert f1_scores(None, []) == {"F1@0.3": 0.0, "F1@0.5": 0.0, "F1@0.7": 0.0, "mF1": 0.0}
    assert mean_paired_iou([], []) == 1.0 and mean_paired_iou([], [(0, 1)]) == 0.0


def test_pairs_are_in_order():
    assert paired_ious([(0, 2), (4, 8), (9, 9)], [(0, 2), (6, 8)]) == [1.0, 0.5, 0.0]
