import pytest

from taro.data.samples import SampleError
from taro.tasks import find_task

TASK = find_task("actions")
TWO = [(0, 2), (4, 8)]


@pytest.mark.parametrize(
    ("spans", "truth", "count", "mean"),
    [
        ([(4, 8), (0, 2)], TWO, 1.0, 1.0),
        ([(0, 8)], TWO, 0.0, 4 / 9),  # IoU 0.5 with the second: reached at 0.3 and 0.5
        ([(0, 2), (2, 4)], [(0, 4)], 0.0, 4 / 9),  # touching ones are two
        ([(0, 2), (0.5, 1.5)], [(0, 2)], 0.0, 2 / 3),  # nested
        ([(2, 0), (4, 8)], TWO, 1.0, 0.5),  # reversed
        ([], TWO, 0.0, 0.0),
        (None, TWO, 0.0, 0.0),
        ([(0, 2)], [], 0.0, 0.0),
    ],
)
def test_occurrences_are_matched(said, spans, truth, count, mean):
    scores = TASK.scores(said(spans), said(truth))
    assert scores["count_accuracy"] == count and scores["mF1"] == pytest.approx(mean)


def test_an_action_occurs(loaded):
    assert TASK.subject(loaded(task="actions", query="jumping")) == "jumping"
    with pytest.raises(SampleError, match=r"spans: got \[\]"):
        loaded(task="actions", spans=[])
