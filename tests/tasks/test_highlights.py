import pytest

from taro.data.samples import SampleError
from taro.tasks import find_task

TASK = find_task("highlights")


@pytest.mark.parametrize(
    ("spans", "truth", "iou", "precision", "recall"),
    [
        ([(0, 4), (8, 10)], [(8, 10), (0, 4)], 1.0, 1.0, 1.0),
        ([(0, 1), (1, 4)], [(0, 4)], 1.0, 1.0, 1.0),  # touching
        ([(0, 4), (1, 2)], [(0, 8)], 0.5, 1.0, 0.5),  # nested
        ([(0, 4), (9, 8)], [(0, 4)], 1.0, 1.0, 1.0),  # a reversed one adds nothing
        ([(4, 0)], [(0, 4)], 0.0, 0.0, 0.0),
        ([], [(0, 4)], 0.0, 0.0, 0.0),
        (None, [(0, 4)], 0.0, 0.0, 0.0),
        ([(0, 4)], [], 0.0, 0.0, 0.0),
    ],
)
def test_unions_are_compared(said, spans, truth, iou, precision, recall):
    assert TASK.iou(said(spans), said(truth)) == iou
    assert TASK.scores(said(spans), said(truth)) == {"precision": precision, "recall": recall}


def test_a_video_has_some(loaded):
    assert loaded(task="highlights").spans == ((1.0, 2.0), (4.0, 6.0))
    with pytest.raises(SampleError, match=r"spans: got \[\]"):
        loaded(task="highlights", spans=[])
