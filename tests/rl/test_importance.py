import math

import pytest
import torch

from taro.rl.importance import importance_weights, measure_mismatch

NAN, INF = float("nan"), float("inf")
POLICY = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -4.0, 0.0]])
ENGINE = torch.tensor([[NAN, -2.5, -2.0], [-0.5, -INF, NAN]])  # a prefix token, and one without probability
SAMPLED = torch.tensor([[False, True, True], [True, True, False]])


def test_the_mismatch_is_over_sampled_tokens_with_finite_log_probs():
    found = measure_mismatch(POLICY, ENGINE, SAMPLED)
    differences = [0.5, -1.0, 0.0]
    assert found.tokens == 3
    assert found.difference_mean == pytest.approx(0.5) and found.difference_max == pytest.approx(1.0)
    assert found.kl == pytest.approx(sum(math.exp(d) - 1 - d for d in differences) / 3)


def test_nothing_to_compare():
    assert measure_mismatch(POLICY, torch.full((2, 3), NAN), SAMPLED) is None
    assert measure_mismatch(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)) is None


def test_the_kl_estimate_is_that_of_the_distributions():
    """With samples of the engine."""
    generator = torch.Generator().manual_seed(0)
    engine, policy = (torch.log_softmax(torch.randn(20, generator=generator), 0) for _ in range(2))
    drawn = torch.multinomial(engine.exp(), 200_000, replacement=True, generator=generator)
    found = measure_mismatch(policy[drawn][None], engine[drawn][None], torch.ones(1, len(drawn), dtype=torch.bool))
    assert found.kl == pytest.approx(float((engine.exp() * (engine - policy)).sum()), rel=0.02)


@pytest.mark.parametrize("cap", [1.5, 2.0, 100.0])
def test_weights_are_cut_at_the_cap_and_one_where_nothing_was_sampled(cap):
    mask = SAMPLED & ENGINE.isfinite()
    weights = importance_weights(POLICY, ENGINE, mask, cap)
    expected = [[1.0, min(math.exp(0.5), cap), math.exp(-1)], [1.0, 1.0, 1.0]]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_weights_carry_no_gradient():
    policy = POLICY.clone().requires_grad_()
    assert not importance_weights(policy, ENGINE, SAMPLED & ENGINE.isfinite(), 2.0).requires_grad
