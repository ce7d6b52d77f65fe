import pytest
import torch
from torch import nn

from taro.rl.settings import OptimizerSettings
from taro.rl.update import learning_rate, make_optimizer, refuse_skipped, sum_and_clip


def parameter(*gradient):
    made = nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    return made


def test_the_norm_is_that_of_all_parameters_before_they_are_clipped():
    parameters = [parameter(3.0), parameter(0.0, 4.0)]
    gradient = sum_and_clip(parameters, 1.0, sharded=False)
    assert gradient.finite and float(gradient.norm) == pytest.approx(5.0)
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.0, 0.8]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_value_makes_the_gradient_not_finite(value):
    assert not sum_and_clip([parameter(1.0), parameter(value)], 1.0, sharded=False).finite


def test_the_rate_is_a_share_of_the_setting():
    settings = OptimizerSettings(learning_rate=0.5, schedule="linear", final_share=0.2)
    assert [learning_rate(settings, step, 2) for step in (0, 1, 2)] == pytest.approx([0.5, 0.3, 0.1])


def test_the_optimizer_has_the_settings():
    (group,) = make_optimizer([parameter(1.0)], OptimizerSettings(learning_rate=0.5, weight_decay=0.25)).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)


def test_the_run_ends_at_the_limit():
    refuse_skipped(2, most=3)
    with pytest.raises(FloatingPointError, match="not finite in 3 updates in a row"):
        refuse_skipped(3, most=3)
