import math

import pytest

from taro.rl.schedule import learning_rate_factor

HALF = math.sqrt(0.5) / 2  # of cos(pi / 4)


@pytest.mark.parametrize(
    ("settings", "total", "factors"),
    [
        ({}, math.inf, [1.0, 1.0, 1.0]),
        ({"warmup_steps": 3}, math.inf, [0.25, 0.5, 0.75, 1.0, 1.0]),
        ({"schedule": "linear"}, 4, [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        ({"schedule": "linear", "warmup_steps": 1}, 5, [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ({"schedule": "linear", "final_share": 0.2}, 4, [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]),
        ({"schedule": "cosine"}, 4, [1.0, 0.5 + HALF, 0.5, 0.5 - HALF, 0.0, 0.0]),
        ({"schedule": "cosine", "warmup_steps": 1, "final_share": 0.5}, 3, [0.5, 1.0, 0.75, 0.5]),
        ({"schedule": "cosine", "final_share": 1.0}, 3, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "linear", "warmup_steps": 3}, 2, [0.25, 0.5, 0.75, 0.0]),  # the run ends in its warm-up
    ],
)
def test_the_rate_of_each_step(settings, total, factors):
    found = [learning_rate_factor(step, total, **settings) for step in range(len(factors))]
    assert found == pytest.approx(factors, abs=1e-12)


def test_the_constant_rate_is_exactly_the_rate():
    assert {learning_rate_factor(step, 10) for step in range(12)} == {1.0}


def test_an_unknown_schedule_names_those_that_there_are():
    with pytest.raises(ValueError, match="must be one of constant, linear, cosine, got 'square'"):
        learning_rate_factor(0, 1, schedule="square")
