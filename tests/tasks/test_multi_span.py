import math

import pytest

from taro.tasks import NO_ANSWER, Answer, find_task

TASK = find_task("multi_span")
TWO = [(0, 2), (4, 8)]


def test_an_event_may_not_occur(loaded):
    sample = loaded(task="multi_span", spans=[])
    assert sample.spans == () and TASK.truth(sample) == Answer(()) and TASK.boundaries(sample) == ()
    assert TASK.boundaries(loaded(task="multi_span")) == (1.0, 2.0, 4.0, 6.0)


def test_answers_are_read_whole():
    assert TASK.read("<answer>4.0s to 8.0s, 0 to 2</answer>") == Answer(((4.0, 8.0), (0.0, 2.0)))
    assert TASK.read("<answer>None.</answer>") == Answer(())
    assert TASK.read("<answer>12.5</answer>") == NO_ANSWER == TASK.read("none")


@pytest.mark.parametrize(
    ("spans", "truth", "iou", "count", "f1"),
    [
        ([], [], 1.0, 1.0, 1.0),
        ([], TWO, 0.0, 0.0, 0.0),
        ([(0, 2)], [], 0.0, 0.0, 0.0),
        (None, [], 0.0, 0.0, 0.0),
        ([(4, 8), (0, 2)], TWO, 1.0, 1.0, 1.0),  # in any order
        ([(0, 2), (2, 6)], [(0, 6)], 1.0, 0.0, 2 / 3),  # touching: the union is the same, the number isn't; (2, 6) has 2/3
        ([(0, 6), (2, 4)], [(0, 6)], 1.0, 0.0, 2 / 3),  # nested
        ([(2, 0), (4, 8)], TWO, 4 / 6, 1.0, 0.5),  # a reversed one counts as one and agrees with nothing
    ],
)
def test_scores(said, spans, truth, iou, count, f1):
    scores = TASK.scores(said(spans), said(truth))
    assert TASK.iou(said(spans), said(truth)) == pytest.approx(iou)
    assert scores["count_accuracy"] == count and scores["F1@0.5"] == pytest.approx(f1)


def refusal(said, *answers):
    """Of answers to two events that occur and then to two that don't."""
    truths = [TWO, TWO, [], []]
    rows = [TASK.scores(said(spans), said(truth)) for spans, truth in zip(answers, truths, strict=True)]
    metrics = TASK.metrics({name: sum(row[name] for row in rows) for name in rows[0]}, 4)
    return tuple(metrics[f"refusal_{name}"] for name in ("precision", "recall", "joint"))


def test_always_refusing_does_not_win(said):
    assert refusal(said, [], [], [], []) == (0.5, 1.0, 0.0)
    assert refusal(said, TWO, [], [], []) == (pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3))
    assert refusal(said, TWO, TWO, [], []) == (1.0, 1.0, 1.0)
    precision, *rest = refusal(said, TWO, TWO, TWO, None)  # never; what can't be read is no refusal
    assert math.isnan(precision) and rest == [0.0, 0.0]


def test_metrics_without_such_samples(said):
    metrics = TASK.metrics(TASK.scores(said(TWO), said(TWO)), 1)
    assert metrics["mF1"] == 1.0 and math.isnan(metrics["refusal_recall"]) and math.isnan(metrics["refusal_joint"])
