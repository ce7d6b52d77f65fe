from dataclasses import replace

import pytest

from taro.data.samples import Sample
from taro.evaluation.answer_only import START, count_affordable, draw_seeds, take_median
from taro.evaluation.predictions import MISSING_VIDEO, Prediction
from taro.prompts import has_format

SAMPLE = Sample("a", "a.mp4", "a dog runs", ((5.0, 12.0),), 20.0)


def answered(start, end, tokens=10):
    return Prediction.answered(SAMPLE, f"{START}{start}s to {end}s</answer>", True, 0.5, tokens)


def test_the_median_of_starts_and_of_ends():
    """Those that can't be read, and the ends of a reversed one, are no reason for another answer."""
    drawn = [answered(1.0, 9.0), answered(6.0, 5.0), answered(4.0, 20.0), Prediction.answered(SAMPLE, START, False, 0.5, 7)]
    found = take_median(SAMPLE, drawn)
    assert found.answer == (4.0, 9.0) and found.iou == pytest.approx(4 / 8) and found.failure is None
    assert (found.tokens, found.seconds) == (37, 2.0) and has_format(found.completion)
    assert take_median(SAMPLE, drawn[:2]).answer == (3.0, 7.5)


def test_where_nothing_can_be_read():
    cut = Prediction.answered(SAMPLE, START, False, 0.5, 7)
    assert take_median(SAMPLE, [cut, cut]) == replace(cut, seconds=1.0, tokens=14)
    missing = Prediction.failed(SAMPLE, MISSING_VIDEO, "gone")
    assert take_median(SAMPLE, [missing]) == missing


def test_as_many_as_the_tokens_are_enough_for():
    reasoned = [answered(1.0, 2.0, tokens) for tokens in (80, 70)]
    assert count_affordable(reasoned, [answered(1.0, 2.0, tokens) for tokens in (30, 20)]) == 3
    assert count_affordable(reasoned, [answered(1.0, 2.0, 100)] * 2) == 1
    assert count_affordable(reasoned, [Prediction.failed(SAMPLE, MISSING_VIDEO, "gone")]) == 1


def test_seeds_differ_by_question_and_draw():
    other = replace(SAMPLE, id="b")
    assert len({*draw_seeds(SAMPLE, 3), *draw_seeds(other, 3)}) == 6 and draw_seeds(SAMPLE, 2) == draw_seeds(SAMPLE, 3)[:2]
