import pytest

from taro.rl.rewards import timestamp_iou_reward
from taro.rl.rewards.time_r1 import TimeR1, unclamped_iou

TEXT = "<think>a</think><answer>{}</answer>"


def test_published_is_ours(complete):
    completion = complete(TEXT.format("4.0s to 8.0s"))
    assert TimeR1()(completion) == {"format": 1.0, "iou": timestamp_iou_reward((4.0, 8.0), (2.0, 6.0), 16.0)}


@pytest.mark.parametrize(
    ("answer", "published", "released"),
    [
        ("2.0 to 6.0", 1.0, 1.0),
        ("2.0s to 6.0s", 1.0, 0.0),  # trap: the unit
        ("2.0  to  6.0", 1.0, 0.0),
        ("2.0 - 6.0", 1.0, 0.0),
        ("6.0 to 2.0", 0.0, 0.0),
        ("2.0", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("1:05 to 1:09", 0.0, 0.0),  # released: 05 to 1
    ],
)
def test_trap_of_the_parser(complete, answer, published, released):
    completion = complete(TEXT.format(answer))
    assert TimeR1()(completion)["iou"] == published
    assert TimeR1(form="released")(completion)["iou"] == released


def test_trap_factors_below_zero():
    """Off by more than T at one end costs, at both ends pays; ours is 0."""
    assert unclamped_iou((0.0, 25.0), (0.0, 10.0), 10.0) == pytest.approx(0.4 * 1 * -0.5)
    assert unclamped_iou((0.0, 60.0), (20.0, 40.0), 10.0) == pytest.approx(1 / 3 * -1 * -1)
    assert timestamp_iou_reward((0.0, 25.0), (0.0, 10.0), 10.0) == 0.0


def test_trap_the_truth_is_not_cut_to_the_video(complete):
    completion = complete(TEXT.format("2 to 16"), truth=[(2, 30)])
    assert TimeR1()(completion)["iou"] == 1.0
    assert TimeR1(form="released")(completion)["iou"] == pytest.approx(0.5 * (1 - 14 / 16))


def test_trap_repeated_tags_pass_the_released_format(complete):
    completion = complete("<think>a</think><answer>b</answer><answer>2 to 6</answer>")
    assert TimeR1()(completion)["format"] == 0.0 and TimeR1(form="released")(completion)["format"] == 1.0


def test_an_event_that_does_not_occur_is_not_its_task(complete):
    for form in ("published", "released"):
        assert TimeR1(form=form)(complete(TEXT.format("2 to 6"), truth=()))["iou"] == 0.0
