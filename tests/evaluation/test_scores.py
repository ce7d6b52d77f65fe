import pytest

from taro.evaluation.scores import METRICS, score_answer

GOOD = "<think>From 1.0s to 2.0s, x.</think><answer>1.0s to 2.0s</answer>"
SILENT = "<think>no times</think><answer>1.0s to 2.0s</answer>"
TRUTHS = [(20.0, 30.0), (0.0, 10.0)]


def test_values_are_in_the_order_of_the_metrics():
    assert METRICS == ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7", "parse_rate", "timestamp_rate", "format_rate")
    assert score_answer((0.0, 4.0), TRUTHS, GOOD) == (0.4, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    assert score_answer((0.0, 4.0), TRUTHS, SILENT) == (0.4, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0)
    assert score_answer(None, TRUTHS, "at 3.0s") == (0.0,) * 7


def test_without_a_completion_nothing_scores():
    assert score_answer(None, TRUTHS, None) == (0.0,) * 7


@pytest.mark.parametrize(("strict", "hits"), [(False, (1.0, 1.0, 1.0)), (True, (1.0, 1.0, 0.0))])
def test_strict_leaves_the_level_itself_out(strict, hits):
    assert score_answer((0.0, 7.0), TRUTHS, None, strict)[1:4] == hits
