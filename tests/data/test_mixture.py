from collections import Counter

import pytest
import torch

from taro.data.mixture import MixtureError, TaskMixture

TASKS = ["grounding"] * 6 + ["dense"] * 2 + ["actions"] * 2


def draw(weights, seed=0, tasks=TASKS):
    return TaskMixture(tasks, weights)(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ({"grounding": 6, "dense": 2, "actions": 2}, (6, 2, 2)),  # as they are
        ({"grounding": 1, "dense": 1, "actions": 0}, (5, 5, 0)),
        ({"grounding": 0.1, "dense": 0.7, "actions": 0.2}, (1, 7, 2)),
        ({"grounding": 1, "dense": 1, "actions": 1}, (4, 3, 3)),  # 10 / 3 each
    ],
)
def test_shares(weights, counts):
    drawn = draw(weights)
    found = Counter(TASKS[place] for place in drawn)
    assert len(drawn) == 10 and tuple(found[task] for task in weights) == counts
    for task in weights:  # none comes round twice more often than another
        often = Counter(place for place in drawn if TASKS[place] == task)
        own = [often[place] for place, name in enumerate(TASKS) if name == task]
        assert max(own) - min(own) <= 1


def test_the_generator_decides():
    weights = {"grounding": 1, "dense": 1, "actions": 1}
    assert draw(weights, 1) == draw(weights, 1) != draw(weights, 2)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"grounding": 1, "dense": 1}, "actions: has 2 training samples and no weight; 0 leaves them out"),
        ({"grounding": 1, "dense": 1, "actions": 1, "highlights": 1}, "highlights: no training sample is of this task; there"),
        ({"grounding": -1, "dense": 1, "actions": 1}, "task_weights .*\n- grounding = -1: must be a number of at least 0"),
        ({"grounding": float("nan"), "dense": 1, "actions": 1}, "grounding = nan: must be"),
        ({"grounding": 0, "dense": 0, "actions": 0}, "all are 0: nothing would be drawn"),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    with pytest.raises(MixtureError, match=message):
        draw(weights)


def test_samples_by_chance():
    chances = torch.tensor([1.0, 3, 0, 0, 0, 0] + [0.5, 0] + [1.0, 1], dtype=torch.float64)
    mixture = TaskMixture(TASKS, {"grounding": 6, "dense": 2, "actions": 2}, chances)
    found = Counter(place for seed in range(300) for place in mixture(torch.Generator().manual_seed(seed)))
    assert found.keys() == {0, 1, 6, 8, 9} and found[6] == 2 * 300 and found[0] + found[1] == 6 * 300
    assert 0.7 < found[1] / (6 * 300) < 0.8 and 0.4 < found[8] / (2 * 300) < 0.6
    [one] = {tuple(TaskMixture(TASKS, None, chances)(torch.Generator().manual_seed(3))) for _ in range(2)}
    assert Counter(TASKS[place] for place in one) == Counter(TASKS)  # without weights of tasks as many as there are
    with pytest.raises(MixtureError, match="all samples of dense, actions have the weight 0"):
        TaskMixture(TASKS, None, torch.tensor([1.0] * 6 + [0.0] * 4))
    TaskMixture(TASKS, {"grounding": 1, "dense": 0, "actions": 0}, torch.tensor([1.0] * 6 + [0.0] * 4))


def test_all_problems_at_once():
    with pytest.raises(MixtureError, match=r"(?s)task_weights can't be used:.*highlights.*grounding.*dense"):
        draw({"highlights": 1, "actions": 1})
