import itertools
import math
import random

import pytest

from taro.rl.rewards.tempr1 import TempR1, count_reward, many_to_many, many_to_one, matching_reward, one_to_one
from taro.spans import temporal_iou


@pytest.mark.parametrize(
    ("predicted", "truth", "reward"),
    [
        ([(0, 2), (4, 8)], [(0, 2), (6, 8)], 0.75),
        ([(0, 2)], [(0, 2), (6, 8)], 0.5),  # a missing pair counts 0
        ([(0, 2), (6, 8)], [(0, 2)], 0.5),  # one too many, too
        ([(4, 8), (0, 2)], [(0, 2), (4, 8)], 0.0),  # pairs are those of the index
        ([(8, 6)], [(6, 8)], 0.0),
        ([], [], 1.0),
        ([], [(0, 2)], 0.0),
        ([(0, 2)], [], 0.0),
        ([(0, 2)], [(2, 4)], 0.0),  # touching
        ([(1, 2)], [(0, 4)], 0.25),  # nested
    ],
)
def test_one_to_one(predicted, truth, reward):
    assert one_to_one(predicted, truth) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("predicted", "truth", "reward"),
    [
        ([(0, 2), (1, 4)], [(0, 4)], 1.0),
        ([(0, 2), (2, 4)], [(0, 1), (1, 4)], 1.0),
        ([(0, 4)], [(0, 1), (3, 4)], 0.5),
        ([(4, 0)], [(0, 4)], 0.0),
        ([], [], 1.0),
        ([], [(0, 1)], 0.0),
    ],
)
def test_many_to_one(predicted, truth, reward):
    assert many_to_one(predicted, truth) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("predicted", "truth", "settings", "reward"),
    [
        ([(0, 2), (4, 8)], [(0, 2), (6, 8)], {}, 1 + 2 * 1.5 / 4),
        ([(6, 8), (0, 2)], [(0, 2), (6, 8)], {}, 2.0),  # both sides are sorted
        ([(0, 2)], [(0, 2), (6, 8)], {}, math.exp(-1 / 2) + 2 / 3),
        ([(0, 2)], [(0, 2), (6, 8)], {"sigma": 2.0}, math.exp(-1 / 4) + 2 / 3),
        ([(0, 2)] * 5, [(0, 2)], {}, math.exp(-4) + 2 / 6),
        ([(0, 1)], [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], {}, math.exp(-4 / 3) + 2 / 6),  # min(5, 3) in the exponent
        ([], [(0, 2), (6, 8)], {}, math.exp(-1)),
        ([(0, 2)], [], {}, 0.0),  # Ng = 0 would divide by min(0, 3)
        ([], [], {}, 2.0),
        ([(2, 0)], [(0, 2)], {}, 1.0),  # a reversed one counts, and matches nothing
    ],
)
def test_many_to_many(predicted, truth, settings, reward):
    assert many_to_many(predicted, truth, **settings) == pytest.approx(reward)


def test_the_matching_is_the_best_of_all():
    rng = random.Random(0)
    for _ in range(60):
        sides = [[(a := rng.randint(0, 20), a + rng.randint(-1, 6)) for _ in range(rng.randint(1, 4))] for _ in range(2)]
        predicted, truth = map(sorted, sides)
        best = {"monotone": 0.0, "hungarian": 0.0}
        for size in range(1, min(map(len, sides)) + 1):
            for rows in itertools.combinations(predicted, size):
                for columns in itertools.permutations(range(len(truth)), size):
                    total = sum(temporal_iou(span, truth[j]) for span, j in zip(rows, columns, strict=True))
                    best["hungarian"] = max(best["hungarian"], total)
                    if list(columns) == sorted(columns):
                        best["monotone"] = max(best["monotone"], total)
        for matching, total in best.items():
            f1 = 2 * total / (len(predicted) + len(truth))
            assert matching_reward(*sides, matching=matching) == pytest.approx(f1)
            count = math.exp(-abs(len(predicted) - len(truth)) / min(len(truth), 3))
            assert many_to_many(*sides, matching=matching) == pytest.approx(count + f1)


def test_trap_where_true_actions_overlap_the_best_matching_crosses():
    """By start the order of the true ones is (0, 10), (1, 2); that of the predicted ones the other way round."""
    truth, predicted = [(0, 10), (1, 2)], [(0.9, 2), (1, 10)]
    crossing = (1 / 1.1 + 0.9) / 2
    assert matching_reward(predicted, truth, matching="hungarian") == pytest.approx(crossing)
    assert matching_reward(predicted, truth, matching="monotone") == pytest.approx(2 * (1 / 1.1) / 4)


def test_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match="sigma must be > 0, got 0"):
        count_reward(1, 1, sigma=0)
    with pytest.raises(ValueError, match="'monotone' or 'hungarian', got 'greedy'"):
        many_to_many([(0, 1)], [(0, 1)], matching="greedy")


ANSWER = "<think>a</think><answer>{}</answer>"


def test_the_task_decides(complete):
    two, reward = ((0, 2), (6, 8)), TempR1()
    text = ANSWER.format("6 to 8, 0 to 2")
    assert reward(complete(text, two, "grounding")) == {"format": 1.0, "iou": 1.0}  # the last, and the nearest truth
    assert reward(complete(text, two, "dense")) == {"format": 1.0, "iou": 0.0}
    assert reward(complete(text, two, "highlights")) == {"format": 1.0, "iou": 1.0}
    assert reward(complete(text, two, "actions")) == {"format": 1.0, "count": 1.0, "matching": 1.0}
    choice = ANSWER.format("B, 6 to 8 and 0 to 2")
    assert reward(complete(choice, two, "grounded_qa", answer="(B) a dog")) == {"format": 1.0, "iou": 1.0, "answer": 1.0}
    with pytest.raises(ValueError, match="the sample needs the key 'answer'"):
        reward(complete(choice, two, "grounded_qa"))
    assert reward(complete(ANSWER.format("none"), (), "multi_span")) == {"format": 1.0, "count": 1.0, "matching": 1.0}
    with pytest.raises(ValueError, match="there is no task 'tracking'; there are grounding, multi_span, dense"):
        reward(complete(text, two, "tracking"))


@pytest.mark.parametrize("task", ["grounding", "dense", "highlights"])
def test_a_refusal_has_to_be_said(complete, task):
    said, broken = complete(ANSWER.format("none"), (), task), complete(ANSWER.format("12.5"), (), task)
    assert TempR1()(said)["iou"] == 1.0 and TempR1()(broken)["iou"] == 0.0


@pytest.mark.parametrize("far", [1.7e308, math.inf, math.nan])
def test_numbers_that_are_no_times_pay_nothing(far):
    spans = [(-far, far)]
    for truth in (spans, [(2, 6)]):
        assert one_to_one(spans, truth) == many_to_one(spans, truth) == matching_reward(spans, truth) == 0.0
