import statistics

import pytest
import torch

from taro.rl.advantages import group_advantages
from taro.rl.rewards.t_grpo import TGRPO, length_bonus, ordered_wins, temporal_bonus


@pytest.mark.parametrize(
    ("accuracy", "shuffled", "published", "released"),
    [
        ([1, 0, 1, 0], [1, 0], True, True),
        ([1, 0, 0, 0], [1, 0], False, False),
        ([0.9, 0, 0.9, 0], [1, 0], False, True),  # between 0.8 and 1 times the shuffled mean
        ([0, 0, 0, 0], [0, 0], False, True),  # trap: nobody is right, and the order is said to help
    ],
)
def test_which_order_wins(accuracy, shuffled, published, released):
    for form, wins in (("published", published), ("released", released)):
        assert ordered_wins(accuracy, shuffled, form=form) == wins
        slow = [0.3 * (wins and value > 0.1) for value in accuracy]
        assert temporal_bonus(accuracy, shuffled, form=form) == pytest.approx(slow)


def test_trap_two_means_of_0_pay_nobody():
    assert temporal_bonus([0, 0.1], [0, 0], form="released") == [0.0, 0.0]


def test_trap_a_bonus_to_all_vanishes():
    accuracy = [1.0, 1.0, 1.0, 1.0]
    totals = [a + b for a, b in zip(accuracy, temporal_bonus(accuracy, [0, 0]), strict=True)]
    assert totals == [1.3] * 4 and not group_advantages(torch.tensor([totals])).any()
    mixed = [1.0, 1.0, 0.0, 0.0]
    totals = [a + b for a, b in zip(mixed, temporal_bonus(mixed, [0, 0]), strict=True)]
    std = statistics.stdev(totals)
    advantages = group_advantages(torch.tensor([totals], dtype=torch.float64))[0].tolist()
    assert advantages == pytest.approx([(value - 0.65) / std for value in totals], abs=1e-5)
    assert advantages == pytest.approx(group_advantages(torch.tensor([mixed], dtype=torch.float64))[0].tolist(), abs=1e-5)


def test_length_bonus():
    assert length_bonus([1, 1, 1, 0, 1], [320, 319, 512, 400, 513]) == [0.2, 0.0, 0.2, 0.0, 0.0]
    assert length_bonus([1, 0.05, 0], [400, 400, 400]) == [0.0, 0.0, 0.0]  # one right answer alone


RIGHT, WRONG = "<think>a</think><answer>2 to 6</answer>", "<answer>9 to 12</answer>"


def test_shuffled_completions_are_compared_with(complete):
    long = tuple(range(400))
    group = [
        complete(RIGHT, token_ids=long),
        complete(WRONG, shuffled=True),
        complete(WRONG),
        complete(RIGHT),
        complete(RIGHT, shuffled=True),
    ]
    assert TGRPO()(group) == {
        "accuracy": [1.0, 0.0, 0.0, 1.0, 0.0],
        "format": [1.0, 0.0, 0.0, 1.0, 0.0],
        "temporal": [0.3, 0.0, 0.0, 0.3, 0.0],
        "length": [0.2, 0.0, 0.0, 0.0, 0.0],
    }
    with pytest.raises(ValueError, match="the group has none"):
        TGRPO()([complete(RIGHT), complete(WRONG)])
    assert TGRPO()([complete(RIGHT)])["temporal"] == [0.0]
    choices = [complete("<answer>B</answer>", answer="B"), complete("<answer>A</answer>", answer="B", shuffled=True)]
    assert TGRPO(accuracy="choice")(choices)["temporal"] == [0.3, 0.0]
