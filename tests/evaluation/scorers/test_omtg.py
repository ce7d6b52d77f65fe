import pytest

from taro.evaluation.scorers.omtg import score, score_answer

TRUTH, OTHER = ((0.0, 10.0), (20.0, 30.0)), ((40.0, 50.0), (60.0, 70.0))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TRUTH, {"EtF1": 1, "C-Acc": 1, "tIoU": 1, "tF1@0.7": 1, "tP@0.7": 1, "tR@0.7": 1}),
        ((), {"EtF1": 0, "C-Acc": 0, "tIoU": 0, "tF1@0.3": 0, "tP@0.3": 0, "tR@0.3": 0}),
        (OTHER, {"EtF1": 0, "C-Acc": 1, "tIoU": 0, "tF1@0.3": 0}),
        (((0, 10), (20, 26)), {"EtF1": 2.5 / 3, "C-Acc": 1, "tIoU": 0.8, "tF1@0.5": 1, "tF1@0.7": 0.5, "tP@0.7": 0.5}),
        (((0, 10),), {"EtF1": 0, "C-Acc": 0, "tIoU": 0.5, "tF1@0.7": 2 / 3, "tP@0.7": 1, "tR@0.7": 0.5}),
        (((20, 30), (0, 10), (5, 5), (9, 8)), {"EtF1": 1, "C-Acc": 1}),  # spans of no length are none
        (((0, 6), (4, 10)), {"EtF1": 0.5, "C-Acc": 1, "tIoU": 0.5, "tF1@0.7": 0.5}),  # the first is drawn out to (0, 10)
    ],
)
def test_one_answer(answer, expected):
    scores = score_answer(answer, TRUTH)
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_means_in_percent(handed_in):
    perfect = score(*handed_in((TRUTH, TRUTH), (OTHER, OTHER)), False)
    assert set(perfect.values()) == {100} and list(perfect)[:3] == ["EtF1", "C-Acc", "tIoU"] and len(perfect) == 12
    swapped = score(*handed_in((TRUTH, OTHER), (OTHER, TRUTH)), False)
    assert {name for name, value in swapped.items() if value} == {"C-Acc"}
    assert score(*handed_in((TRUTH, TRUTH), (OTHER, None)), False)["EtF1"] == 50
