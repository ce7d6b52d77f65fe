import math

import pytest
import torch
from torch import nn

from taro.rl.settings import OptimizerSettings
from taro.rl.update import learning_rate, make_optimizer, sum_and_clip


def parameter(*gradient):
    made = nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    return made


def test_the_norm_is_that_of_all_parameters_before_they_are_clipped():
    parameters = [parameter(3.0), parameter(0.0, 4.0)]
    gradient = sum_and_clip(parameters, 1.0, sharded=False)
    assert gradient.finite and float(gradient.norm) == pytest.approx(5.0)
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.0, 0.8]))


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
    settings = OptimizerSettings(learning_rate=0.5, **settings)
    found = [learning_rate(settings, step, total) for step in range(len(factors))]
    assert found == pytest.approx([0.5 * factor for factor in factors], abs=1e-12)


def test_the_constant_rate_is_exactly_the_rate():
    assert {learning_rate(OptimizerSettings(learning_rate=3e-5), step, 10) for step in range(12)} == {3e-5}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_value_makes_the_gradient_not_finite(value):
    assert not sum_and_clip([parameter(1.0), parameter(value)], 1.0, sharded=False).finite


def test_the_optimizer_has_the_settings():
    (group,) = make_optimizer([parameter(1.0)], OptimizerSettings(learning_rate=0.5, weight_decay=0.25)).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
