import pytest

from taro.evaluation.predictions import EvaluationError
from taro.evaluation.scorers.ra_rft import score

OCCURS, ABSENT = ((0.0, 10.0),), ()


def scored(handed_in, of_occurring, of_absent, strict=False):
    pairs = [(OCCURS, answer) for answer in of_occurring] + [(ABSENT, answer) for answer in of_absent]
    return score(*handed_in(*pairs), strict)


def test_perfect_answers(handed_in):
    assert set(scored(handed_in, [OCCURS] * 2, [ABSENT] * 2).values()) == {100}


@pytest.mark.parametrize("silent", ["who knows?", None])
def test_an_answer_that_cannot_be_read_is_no_refusal(handed_in, silent):
    scores = scored(handed_in, [silent] * 2, [silent] * 2)
    assert (scores["accuracy"], scores["RA-IoU"], scores["R@0.3"]) == (50, 0, 0)
    assert (scores["relevant precision"], scores["relevant recall"]) == (50, 100)
    assert scores["irrelevant precision"] == scores["irrelevant recall"] == scores["irrelevant F1"] == 0


def test_swapped_answers(handed_in):
    assert set(scored(handed_in, [ABSENT] * 2, [OCCURS] * 2).values()) == {0}


def test_who_always_refuses_gets_half(handed_in):
    scores = scored(handed_in, [ABSENT] * 2, [ABSENT] * 2)
    assert (scores["accuracy"], scores["RA-IoU"], scores["R@0.7"], scores["irrelevant recall"]) == (50, 50, 50, 100)
    assert scores["irrelevant F1"] == pytest.approx(200 / 3) and scores["relevant F1"] == 0


def test_some_of_each(handed_in):
    answers = [OCCURS, ((0, 5),), ABSENT], [ABSENT, OCCURS]
    scores = scored(handed_in, *answers)
    assert (scores["accuracy"], scores["RA-IoU"]) == pytest.approx((60, 50)) and scores["R@0.5"] == pytest.approx(60)
    assert (scores["relevant precision"], scores["relevant recall"]) == pytest.approx((200 / 3, 200 / 3))
    assert (scores["irrelevant precision"], scores["irrelevant recall"], scores["irrelevant F1"]) == (50, 50, 50)
    assert scored(handed_in, *answers, strict=True)["R@0.5"] == pytest.approx(40)


SEVERAL = ((2.0, 10.0), (22.0, 32.0))


@pytest.mark.parametrize(
    ("answer", "with_the_first", "with_all"),
    [(SEVERAL, 100, 100), ("22 to 32", 0, 100), ("2 to 10", 100, 100), ("none", 0, 0), ("who knows?", 0, 0)],
)
def test_the_iou_is_with_the_window_that_the_authors_score_with(handed_in, answer, with_the_first, with_all):
    """Of an answer with several spans the first counts."""
    for extra, expected in (({"scored_span": [2, 10]}, with_the_first), ({}, with_all)):
        assert score(*handed_in((SEVERAL, answer), extra=[extra]), False)["RA-IoU"] == expected


def test_a_scored_span_that_is_none_is_named(handed_in):
    with pytest.raises(EvaluationError, match=r"sample 0: scored_span: got \[2\]; allowed: \[start, end\], two numbers"):
        score(*handed_in((SEVERAL, "none"), extra=[{"scored_span": [2]}]), False)
