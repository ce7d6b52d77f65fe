import random

import pytest

from taro.rl.rewards.museg import Museg, global_f1, local_matching, read_segments, released_f1, released_local


@pytest.mark.parametrize(
    ("predicted", "truth", "f1", "local"),
    [
        ([(2, 6)], [(2, 6)], 1.0, 1.0),
        ([(4, 8)], [(2, 6)], 0.5, (1 + 2 / 6) / 2),
        ([(8, 10)], [(2, 6)], 0.0, (1 - 2 / 8) / 2),  # apart: the hull has 2 s more than the union
        ([(6, 8)], [(2, 6)], 0.0, 0.5),  # touching
        ([(2, 6), (8, 9)], [(2, 6)], 8 / 9, 0.5),
        ([(2, 6)], [(2, 6), (8, 9)], 8 / 9, 0.5),
        ([(8, 9), (2, 6)], [(2, 6), (8, 9)], 1.0, 1.0),  # sorted
        ([(2, 6), (3, 4)], [(2, 6)], 1.0, 0.5),  # nested
        ([(6, 2)], [(2, 6)], 0.0, 0.0),
        ([(3, 3)], [(3, 3)], 0.0, 0.0),
        ([], [], 1.0, 1.0),
        ([], [(2, 6)], 0.0, 0.0),
        ([(2, 6)], [], 0.0, 0.0),
    ],
)
def test_matching_by_hand(predicted, truth, f1, local):
    assert global_f1(predicted, truth) == pytest.approx(f1)
    assert local_matching(predicted, truth) == pytest.approx(local)


def test_f1_is_that_of_cells():
    rng = random.Random(0)
    for _ in range(100):
        sides = [[(a := rng.randint(0, 20), a + rng.randint(1, 6)) for _ in range(rng.randint(1, 4))] for _ in range(2)]
        predicted, truth = ({cell for start, end in spans for cell in range(start, end)} for spans in sides)
        precision, recall = len(predicted & truth) / len(predicted), len(predicted & truth) / len(truth)
        expected = 2 * precision * recall / (precision + recall) if precision else 0.0
        assert global_f1(*sides) == pytest.approx(expected)


def test_trap_unmerged_truth():
    truth = [(0, 4), (2, 6)]
    assert global_f1([(0, 6)], truth) == 1.0
    assert released_f1([(0, 6)], truth) == pytest.approx(2 * (8 / 6) * (8 / 8) / (8 / 6 + 8 / 8), abs=1e-5)  # above 1
    assert released_f1([(4, 8)], [(2, 6)]) == pytest.approx(0.5, abs=1e-5)


def test_trap_segments_in_the_order_of_the_output():
    predicted, truth = [(8, 9), (2, 6)], [(2, 6), (8, 9)]
    assert local_matching(predicted, truth) == 1.0
    assert released_local(predicted, truth) == pytest.approx((1 - 2 / 7) / 2)
    assert released_local([(2, 6)], truth) == pytest.approx(0.5, abs=1e-6)  # a far dummy


TEXT = "<think>{}</think><answer>{}</answer>"


@pytest.mark.parametrize(
    ("reasoning", "answer", "published", "released"),
    [
        ("From 2.5 to 7.0", "2.5-7.0", 1.0, 1.0),
        ("nothing", "2.5-7.0", 0.6, 0.6),
        ("From 2.5 to 17.0", "2.5-7.0", 0.6, 1.0),  # trap: 7.0 inside 17.0
        ("From 205 to 7x0", "2.5-7.0", 0.6, 1.0),  # trap: a point matches any character
        ("From 2.50 to 7 s", "2.5-7.0", 1.0, 0.6),  # trap: 7 s is no 7.0
        ("From 2.5 to 7.0" * 11, "2.5-7.0", 0.6, 0.6),
        ("From 2.5 to 7.0", "2.5s to 7.0s", 1.0, 0.2),
        ("From 2.5 to 7.0", "soon", 0.2, 0.2),
        ("From 2.5 to 7.0", "2.5", 0.2, 0.2),
    ],
)
def test_traps_of_the_format(complete, reasoning, answer, published, released):
    completion = complete(TEXT.format(reasoning, answer))
    for form, value in (("published", published), ("released", released)):
        assert Museg(form=form)(completion)["format"] == value
        assert Museg(stage=2, form=form)(completion)["format"] == (1.0 if value == 0.6 else value)
        assert Museg(form=form)(complete("no tags"))["format"] == 0.0


def test_one_reversed_segment_spoils_the_released_matching(complete):
    completion = complete(TEXT.format("", "6-2 2-6"))
    assert Museg()(completion) == {"format": 0.6, "global": 1.0, "local": 0.5}
    assert Museg(form="released")(completion) == {"format": 0.6, "global": 0.0, "local": 0.0}
    assert read_segments(["1-2-3", "nan-2"])[0] == (1.0, 2.0) and read_segments(["1"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "<answer>9-12</answer><answer>2-6</answer>",
        "<think>a</think><answer>2-6</answer> or <answer>2-6</answer>",
        "<answer>2-6</answer></answer>",
        "<answer><answer>2-6</answer>",
        "</answer>2-6<answer>",
        "2-6",
    ],
)
def test_the_released_matching_wants_one_answer(complete, text):
    assert Museg(form="released")(complete(text)) == {"format": 0.0, "global": 0.0, "local": 0.0}


def test_the_released_matching_needs_no_reasoning(complete):
    parts = Museg(form="released")(complete("<answer>2-6</answer>"))
    assert parts == {"format": 0.0, "global": pytest.approx(1.0, abs=1e-5), "local": 1.0}


def test_the_released_truth_may_end_after_the_video(complete):
    completion = complete(TEXT.format("", "12-16"), truth=[(12, 20)], duration=16.0)
    assert Museg()(completion)["local"] == 1.0
    assert Museg(form="released")(completion)["local"] == pytest.approx((1 + 4 / 8) / 2)


def test_settings():
    with pytest.raises(ValueError, match="stage = 3: allowed are 1, 2"):
        Museg(stage=3)
    with pytest.raises(ValueError, match="form = 'paper': allowed are 'published', 'released'"):
        Museg(form="paper")
