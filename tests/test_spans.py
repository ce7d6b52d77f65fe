import math
import random

import pytest

from taro.spans import LATEST, is_time, merge_spans, overlap_length, span_length, temporal_iou, total_length, union_iou


@pytest.mark.parametrize(
    ("spans", "merged"),
    [
        ([], []),
        ([(4.0, 6.0), (0.0, 2.0)], [(0.0, 2.0), (4.0, 6.0)]),
        ([(0.0, 2.0), (2.0, 3.0)], [(0.0, 3.0)]),  # they touch
        ([(0.0, 9.0), (2.0, 3.0), (1.0, 8.0)], [(0.0, 9.0)]),  # nested
        ([(5.0, 1.0), (3.0, 3.0), (1.0, math.inf), (math.nan, 2.0)], []),  # reversed, empty, not finite
        ([(6.0, 2.0), (1.0, 3.0)], [(1.0, 3.0)]),
    ],
)
def test_merge_spans(spans, merged):
    assert merge_spans(spans) == merged
    assert total_length(spans) == sum(map(span_length, merged))


@pytest.mark.parametrize(
    ("predicted", "truth", "iou"),
    [
        ([], [], 1.0),
        ([(1.0, 2.0)], [], 0.0),
        ([], [(1.0, 2.0)], 0.0),
        ([(2.0, 1.0)], [], 0.0),  # something was predicted
        ([(2.0, 2.0)], [(2.0, 2.0)], 0.0),
        ([(0.0, 2.0), (2.0, 4.0)], [(0.0, 4.0)], 1.0),
        ([(0.0, 4.0), (1.0, 2.0)], [(0.0, 2.0), (6.0, 8.0)], 2 / 6),
    ],
)
def test_union_iou(predicted, truth, iou):
    assert union_iou(predicted, truth) == pytest.approx(iou)


def test_unions_are_those_of_cells():
    rng = random.Random(0)
    for _ in range(300):
        sides = [[(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(rng.randint(1, 4))] for _ in range(2)]
        cells = [{cell for start, end in spans for cell in range(start, end)} for spans in sides]
        both, either = len(cells[0] & cells[1]), len(cells[0] | cells[1])
        assert overlap_length(*sides) == both and total_length(sides[0]) == len(cells[0])
        assert union_iou(*sides) == pytest.approx(both / either if either else 0.0)
        (first, *_), (second, *_) = sides
        assert union_iou([first], [second]) == pytest.approx(temporal_iou(first, second))


@pytest.mark.parametrize("far", [1.7e308, 1e300, 2 * LATEST, math.inf, math.nan])
def test_what_is_no_time_has_no_length(far):
    span = (-far, far)
    assert not is_time(far) and span_length(span) == 0 and merge_spans([span, (far, 0.0), (1.0, 2.0)]) == [(1.0, 2.0)]
    for other in (span, (0.0, far), (2.0, 6.0)):
        assert temporal_iou(span, other) == temporal_iou(other, span) == union_iou([span], [other]) == 0.0


def test_sums_of_times_are_finite():
    """Two that touch are one of a finite length."""
    assert total_length([(-LATEST, 0.0), (0.0, LATEST)]) == 2 * LATEST
    assert union_iou([(-LATEST, LATEST)], [(-LATEST, LATEST)]) == 1.0
