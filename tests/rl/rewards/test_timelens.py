import pytest

from taro.rl.rewards.timelens import TimeLens


@pytest.mark.parametrize(
    ("text", "published", "released"),
    [
        ("The event happens in 2.0 - 6.0 seconds.", 1.0, 1.0),
        ("It happens from 2.0s to 6.0s, and 9 to 12.", 1.0, 0.0),  # the first one counts; released: no unit
        ("2 to 6", 1.0, 1.0),
        ("<answer>2 to 6</answer>", 1.0, 1.0),
        ("2 TO 6", 1.0, 0.0),  # trap: only `to` becomes a dash
        ("<think>0 - 1</think> 2 - 6", 1.0, 0.0),  # trap: the reasoning is read
        ("<think>2 - 6", 0.0, 1.0),
        ("<think>0 - 1</think><answer>2 - 6</answer>", 1.0, 0.0),
        ("6 - 2", 0.0, 0.0),
        ("2", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_the_first_span(complete, text, published, released):
    assert TimeLens()(complete(text)) == published
    assert TimeLens(form="released")(complete(text)) == released


def test_the_first_truth(complete):
    assert TimeLens()(complete("2 - 6", truth=[(9, 12), (2, 6)])) == 0.0
    assert TimeLens()(complete("2 - 6", truth=[])) == 0.0
