"""Areas by hand: of N queries each is the mean of the queries' own. Whatever an IoU is above, or a share reaches, counts from
level 0 on, and the last of these levels is worth half a step of 0.5 more."""

import random
from itertools import pairwise

import numpy as np
import pytest

from taro.evaluation.scorers.vue_tr import score, score_answers, submission

ONE, TWO = [(0.0, 10.0)], [(20.0, 30.0), (40.0, 50.0)]


@pytest.mark.parametrize(
    ("answers", "iou", "precision", "recall"),
    [
        ([ONE, TWO], 99.5, 100, 100),
        ([[], []], 0, np.nan, 0.5),
        ([TWO, ONE], 0, 0.5, 0.5),  # swapped
        ([ONE, []], 49.75, 100, 50.25),  # an empty answer has no precision
        ([[(0.0, 5.0)], TWO], 74.5, 100, 75.25),  # IoU and recall 0.5: 49.5 and 50.5
        ([[(0.4, 9.2)], TWO], 99.5, 100, 100),  # rounded outwards
        ([[(0.0, 10.0), (0.0, 10.0)], TWO], 99.5, 75.25, 100),  # twice the seconds
        ([ONE, TWO[::-1]], 99.5, 75.25, 75.25),  # of two spans out of order one is passed over
        ([[(10.0, 0.0)], TWO], 49.75, 100, 100),  # reversed: for precision and recall the other way round
    ],
)
def test_areas(answers, iou, precision, recall):
    assert areas(answers, [ONE, TWO]) == pytest.approx((iou, precision, recall), nan_ok=True)


def test_without_true_spans_and_with_some_that_overlap():
    assert areas([[], ONE], [[], []]) == pytest.approx((49.75, 50.25, np.nan), nan_ok=True)
    assert areas([[(0.0, 5.0)]], [[(0.0, 10.0), (5.0, 10.0)]]) == pytest.approx((33.5, 100, 33.5))  # 5 of 15 seconds


def areas(answers, truths):
    scores = score_answers(answers, truths)
    assert list(scores) == ["IoU", "precision", "recall"]
    return tuple(scores.values())


def test_by_seconds_and_levels_one_after_the_other():
    rng, levels = random.Random(0), np.linspace(0, 1, 101)

    def draw():
        times = sorted(map(float, rng.sample(range(60), 2 * rng.randint(1, 4))))
        return list(zip(times[::2], times[1::2], strict=True))

    answers, truths = [draw() for _ in range(40)], [draw() for _ in range(40)]
    values = []
    for answer, truth in zip(answers, truths, strict=True):
        found, true = ({second for a, b in spans for second in range(int(a), int(b))} for spans in (answer, truth))
        both = len(found & true)
        values.append((both / len(found | true), both / len(found), both / len(true)))
    expected = []
    for number, column in enumerate(zip(*values, strict=True)):
        rates = [sum(x > t if number == 0 else x >= t for x in column) / 40 for t in levels]
        expected.append(sum((a + b) / 2 for a, b in pairwise(rates)))
    assert areas(answers, truths) == pytest.approx(expected) and 1 < expected[0] < 60


def test_groups_and_what_is_handed_in(handed_in):
    extra = [{"duration_category": "short", "query_format": "phrase"}, {"duration_category": "ultra-long"}, {}]
    pairs = handed_in((ONE, ONE), (TWO, "who knows?"), (ONE, None), extra=extra)
    scores = score(*pairs, False)
    assert list(scores)[3:] == [f"{n} {m}" for n in ("short", "ultra-long", "phrase") for m in ("IoU", "precision", "recall")]
    assert scores["IoU"] == pytest.approx(99.5 / 3) and scores["short IoU"] == scores["phrase IoU"] == pytest.approx(99.5)
    assert scores["ultra-long IoU"] == 0 and np.isnan(scores["ultra-long precision"])
    rows = [{"query_id": 0, "answer": [(0.0, 10.0)]}, {"query_id": 1, "answer": []}, {"query_id": 2, "answer": []}]
    assert submission(*pairs) == rows
