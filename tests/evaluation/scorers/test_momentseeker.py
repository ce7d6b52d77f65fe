import pytest

from taro.evaluation.scorers.momentseeker import score, score_answer

TRUTH, OTHER = ((0.0, 10.0), (20.0, 30.0)), ((40.0, 50.0),)


@pytest.mark.parametrize(
    ("answer", "first", "precision"),
    [
        (TRUTH, 1, 1),
        ((), 0, 0),
        (OTHER, 0, 0),
        (((0, 10),), 1, 1),  # a true span that is left out costs nothing
        (((40, 50), (0, 10)), 0, 1 / 2),
        (((0, 10), (40, 50), (20, 30)), 1, (1 + 2 / 3) / 2),
        (((0, 10), (1, 10), (20, 30)), 1, (1 + 2 / 3) / 2),  # each true span is hit once
        (((0, 3),), 0, 0),  # IoU 0.3 is none above it
        ((*OTHER * 5, (0, 10)), 0, 0),  # the sixth
    ],
)
def test_one_answer(answer, first, precision):
    scores = score_answer(answer, TRUTH)
    assert (scores["R@1"], scores["mAP@5"]) == (first, pytest.approx(precision))


def test_means_in_percent(handed_in):
    assert set(score(*handed_in((TRUTH, TRUTH), (OTHER, OTHER)), False).values()) == {100}
    assert set(score(*handed_in((TRUTH, OTHER), (OTHER, TRUTH)), False).values()) == {0}
    half = score(*handed_in((OTHER, ((40, 46),)), (OTHER, None)), False)
    assert half == pytest.approx({"R@1": 50, "mAP@5": 50, "R@1 (IoU > 0.5)": 50, "R@1 (IoU > 0.7)": 0, "mIoU": 30})
