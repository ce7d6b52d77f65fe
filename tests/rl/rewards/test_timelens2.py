import math
import random
import time

import pytest

from taro.rl.rewards.timelens2 import TimeLens2, parse_json_spans, unmerged_iou, wasserstein
from taro.rl.rewards.timelens2_released import DEEPEST, released_spans
from taro.spans import merge_spans, union_iou


@pytest.mark.parametrize(
    ("predicted", "truth", "distance", "length"),
    [
        ([(2, 6)], [(2, 6)], 0.0, 4),
        ([(5, 9)], [(2, 6)], 3.0, 4),  # all is moved by 3 s
        ([(0, 1)], [(0, 4)], 1.5, 4),
        ([(0, 4)], [(0, 1)], 1.5, 1),  # divided by the truth's length: what is too long costs more
        ([(0, 2), (1, 4)], [(0, 4)], 0.0, 4),  # merged
        ([(0, 2), (2, 4)], [(0, 4)], 0.0, 4),  # touching
        ([(0, 4), (1, 2)], [(0, 4), (3, 4)], 0.0, 4),  # nested
        ([(0, 1), (9, 10)], [(4, 6)], 4.0, 2),
    ],
)
def test_wasserstein_by_hand(predicted, truth, distance, length):
    assert wasserstein(predicted, truth) == pytest.approx(math.exp(-distance / length))
    assert wasserstein(predicted, truth, beta=3.0) == pytest.approx(math.exp(-3 * distance / length))


@pytest.mark.parametrize(
    ("predicted", "truth", "reward"),
    [
        ([], [], 1.0),
        ([], [(0, 1)], 0.0),
        ([(0, 1)], [], 0.0),
        ([(1, 0)], [], 0.0),
        ([(1, 0)], [(0, 1)], 0.0),
        ([(1, 1)], [(1, 1)], 0.0),
    ],
)
def test_where_a_side_has_no_second(predicted, truth, reward):
    assert wasserstein(predicted, truth) == reward
    with pytest.raises(ValueError, match="beta must be > 0, got -1"):
        wasserstein(predicted, truth, beta=-1)


def quantile(spans, share):
    left = share * sum(end - start for start, end in spans)
    for start, end in spans:
        if left <= end - start:
            return start + left
        left -= end - start
    return spans[-1][1]


def test_wasserstein_is_the_mean_way_of_a_second():
    """The slow one: the area between the quantile functions."""
    rng, steps = random.Random(0), 4000
    for _ in range(40):
        sides = [
            merge_spans((a := rng.uniform(0, 50), a + rng.uniform(0.5, 10)) for _ in range(rng.randint(1, 4))) for _ in range(2)
        ]
        shares = [(k + 0.5) / steps for k in range(steps)]
        w1 = sum(abs(quantile(sides[0], share) - quantile(sides[1], share)) for share in shares) / steps
        length = sum(end - start for start, end in sides[1])
        assert -math.log(wasserstein(*sides)) * length == pytest.approx(w1, abs=0.01)


def test_trap_unmerged_truth():
    """What two true spans share counts twice: an answer of the truth's union is cut to 1, one of half of it gets more."""
    truth = [(0, 4), (2, 6)]
    assert union_iou([(0, 6)], truth) == 1.0 and unmerged_iou([(0, 6)], truth) == 1.0
    assert union_iou([(2, 4)], truth) == pytest.approx(2 / 6)
    assert unmerged_iou([(2, 4)], truth) == pytest.approx(4 / (2 + 8 - 4))
    assert unmerged_iou([(0, 1), (3, 4)], [(0, 2), (3, 5)]) == pytest.approx(union_iou([(0, 1), (3, 4)], [(0, 2), (3, 5)]))
    assert (unmerged_iou([], []), unmerged_iou([(0, 1)], []), unmerged_iou([], [(0, 1)])) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("[[1, 2.5], [4, 6]]", [(1.0, 2.5), (4.0, 6.0)]),
        ("seen [0] twice: [[1, 2]] or [[3, 4]].", [(3.0, 4.0)]),
        ("[]", []),
        ("[1, 2]", None),
        ("[[1, 2, 3]]", None),
        ("[[1, 2]", None),
        ("[[1,]]", None),
        ("no list", None),
        ("[[1" + "0" * 400 + ", 2]]", None),
        ("[" * 5000 + "]" * 5000, None),
    ],
)
def test_parse_json_spans(text, spans):
    assert parse_json_spans(text) == spans


def test_lists_that_stay_open_are_read_in_linear_time():
    started = time.process_time()
    for between in (" ", " a"):
        assert parse_json_spans(f"[[1, 2]]{between}" + "[" * 40_000) == [(1.0, 2.0)]
    assert time.process_time() - started < 2


def test_trap_lists_around_a_span(complete):
    reward = {form: TimeLens2(form=form)(complete("[[[2, 6]]]")) for form in ("published", "released")}
    assert reward["published"] == {"wasserstein": 0.0, "iou": 0.0, "parse": -1.0}
    assert reward["released"] == {"wasserstein": 1.0, "iou": 1.0, "parse": 0.0}
    for depth in (1, DEEPEST, 100):  # of one span any number of lists, of several so many
        assert released_spans("[" * depth + "[1, 2]" + "]" * depth) == [(1.0, 2.0)]
    for depth in (1, DEEPEST - 1, DEEPEST):
        deep = "[" * depth + "[1, 2]" + "]" * depth
        assert released_spans(f"[{deep}, [3, 4]]") == [(1.0, 2.0), (3.0, 4.0)][depth == DEEPEST :]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("[[1, 2.5], [4, 6]]", [(1.0, 2.5), (4.0, 6.0)]),
        ("[[6, 2]]", [(2.0, 6.0)]),  # turned round
        ("[[6, 2], [2, 6]]", [(2.0, 6.0), (2.0, 6.0)]),
        ("[2, 6]", [(2.0, 6.0)]),
        ("from [2, 6]", []),  # in a text a list opens with two
        ('[["2","6"]]', [(2.0, 6.0)]),
        ('["2", "6.0"]', [(2.0, 6.0)]),
        ('[[2, "6s"]]', []),
        ("[[1, 2, 3]]", [(1.0, 2.0)]),  # what follows is left out
        ('[[1, 2], "or", [[3, 4]], [5]]', [(1.0, 2.0), (3.0, 4.0)]),
        ("[true, 6]", [(1.0, 6.0)]),
        ("[[true, 6], [7, 8]]", [(7.0, 8.0)]),
        ("[[2, 2], [4, 6]]", []),  # one empty span
        ("[[2, 1e999]]", []),
        ("[NaN, 2]", []),
        ("[]", []),
        ("[[]]", []),
        ("[7]", []),
        ('[7, "8"]', []),
        ("[null, 8]", []),
        ('{"time": [2, 6]}', []),
        ("", []),
        ("soon", []),
        ("[[2, 6]] or [[9, 12]]", [(2.0, 6.0)]),  # the first
        ("[[a]] or [[9, 12]]", [(9.0, 12.0)]),
        ("[[2, 6] or [[9, 12]]", []),  # one that stays open
        ("so ```json\n[2, 6]\n``` not [[9, 12]]", [(2.0, 6.0)]),
        ("<answer>[[0, 1]]</answer><answer>[[2, 6]]</answer>", [(0.0, 1.0)]),
        ("<answer>[[0, 1]]</answer><thinking>a</thinking> <answer>[[2, 6]]</answer>", [(2.0, 6.0)]),
        ("<think>[[0, 1]]</think><answer> [[2, 6]] </answer>", [(2.0, 6.0)]),
        ("<think>[[0, 1]]</think> [[2, 6]]", [(0.0, 1.0)]),
        ("[[1" + "0" * 400 + ", 2]]", []),
        ("[[1" + "0" * 5000 + ", 2]]", []),
        ("[" * 5000 + "]" * 5000, []),
    ],
)
def test_released_spans(text, spans):
    assert released_spans(text) == spans


@pytest.mark.parametrize("text", ["[[6, 2]]", "[2, 6]", '[["2","6"]]', "<answer>[[2, 6]]</answer><answer>[[9, 12]]</answer>"])
def test_what_the_released_parser_reads(complete, text):
    assert TimeLens2(form="released")(complete(text)) == {"wasserstein": 1.0, "iou": 1.0, "parse": 0.0}
    assert TimeLens2()(complete(text))["iou"] == 0.0


def test_the_released_truth_may_end_after_the_video(complete):
    completion = complete("[[12, 16]]", [(12, 20)], duration=16.0)
    assert TimeLens2()(completion)["iou"] == 1.0
    assert TimeLens2(form="released")(completion) == {"wasserstein": pytest.approx(math.exp(-2 / 8)), "iou": 0.5, "parse": 0.0}


def test_the_answer(complete):
    right = {"wasserstein": 1.0, "iou": 1.0, "parse": 0.0}
    for text in ("[[2, 6]]", "<think>[[0, 1]]</think><answer>[[2, 6]]</answer>", "<answer>2.0s to 6.0s</answer>"):
        assert TimeLens2()(complete(text)) == right
    for text in ("<think>[[2, 6]]</think><answer></answer>", "<think>[[2, 6]]</think> soon", "<think>[[2, 6]]"):
        assert TimeLens2()(complete(text))["parse"] == -1
    assert TimeLens2()(complete("<think>[[0, 1]]</think>[[2, 6]]")) == right
    assert TimeLens2(form="released")(complete("<think>[[2, 6]]</think> soon")) == right
    assert TimeLens2()(complete("[]", ())) == right
    assert TimeLens2(form="released")(complete("[]", ()))["parse"] == -1
    assert TimeLens2()(complete("[[6, 2], [2, 6]]")) == right  # one without a length is left out
    assert TimeLens2(form="released")(complete("[[6, 2], [2, 6]]")) == right  # as both are turned round
    assert TimeLens2(form="released")(complete("[[2, 2], [2, 6]]"))["parse"] == -1


@pytest.mark.parametrize("far", ["1" + "7" * 308, "9" * 300, "8" + "0" * 15])
def test_numbers_that_are_no_times_pay_nothing(complete, far):
    """And leave no NaN, which would end a training."""
    for form in ("published", "released"):
        for text in (f"[[-{far}, {far}]]", f"[[0, {far}]]", f"[[-{far}, 0], [0, {far}]]", f"[[2, {far}], [2, {far}]]"):
            assert TimeLens2(form=form)(complete(text)) == {"wasserstein": 0.0, "iou": 0.0, "parse": 0.0}
    assert wasserstein([(-1.7e308, 1.7e308)], [(2, 6)]) == 0.0
    assert wasserstein([(-1.7e308, 1.7e308)], [(-1.7e308, 1.7e308)]) == 0.0
