import math
import statistics

import pytest
import torch

from taro.rl.advantages import constructed_weights, group_advantages


def test_group_advantages_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    expected = [[-1.0, 0.0, 1.0], [-1 / math.sqrt(3), -1 / math.sqrt(3), 2 / math.sqrt(3)]]
    torch.testing.assert_close(group_advantages(rewards, eps=0.0), torch.tensor(expected, dtype=torch.float64))
    centred = torch.tensor([[-1.0, 0.0, 1.0], [-1.0, -1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards, scale="none"), centred)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_group_advantages_match_the_slow_version(eps):
    rewards = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, group in zip(group_advantages(rewards, eps=eps).tolist(), rewards.tolist(), strict=True):
        mean, std = statistics.mean(group), statistics.stdev(group)
        assert row == pytest.approx([(reward - mean) / (std + eps) for reward in group])


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("completions", [2, 3, 7, 8, 11])
def test_equal_rewards_give_exact_zeros(scale, dtype, completions):
    rewards = torch.tensor([0.1, 1.3, 2.0 / 3, 1.7])[:, None].to(dtype).repeat(1, completions)
    assert not group_advantages(rewards, scale=scale).any()


def test_default_eps_is_the_released_one():
    rewards = torch.tensor([[0.0, 1e-6]], dtype=torch.float64)
    expected = 0.5e-6 / (1e-6 / math.sqrt(2) + 1e-6)
    assert group_advantages(rewards)[0].tolist() == pytest.approx([-expected, expected])


@pytest.mark.parametrize("scale", ["std", "none"])
def test_a_group_of_one_is_an_error(scale):
    with pytest.raises(ValueError, match=r"at least 2 completions per prompt, got the shape \(4, 1\)"):
        group_advantages(torch.zeros(4, 1), scale=scale)


def test_other_errors():
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        group_advantages(torch.zeros(4))
    with pytest.raises(ValueError, match='"std" or "none", got \'batch\''):
        group_advantages(torch.zeros(1, 4), scale="batch")
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        constructed_weights(torch.zeros(4))
    with pytest.raises(ValueError, match="got 'AWR'"):
        constructed_weights(torch.zeros(1, 4), mode="AWR")
    with pytest.raises(ValueError, match="beta must be > 0, got 0"):
        constructed_weights(torch.zeros(1, 4), mode="awr", beta=0)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("mask", [[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]),
        ("clone", [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]),
        ("raft", [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]]),
        ("awr", [[math.exp(-1.5), 1.0, math.exp(1.0), math.exp(0.5)], [1.0, math.exp(-1.0), 1.0, math.exp(-2.0)]]),
    ],
)
def test_constructed_weights(mode, expected):
    advantages = torch.tensor([[-3.0, 0.0, 2.0, 1.0], [0.0, -2.0, 0.0, -4.0]])
    weights = constructed_weights(advantages, mode=mode, beta=2.0)
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_constructed_weights_default_to_mask_and_beta_one():
    advantages = torch.tensor([[-1.0, 1.0]])
    assert constructed_weights(advantages).tolist() == [[0.0, 1.0]]
    assert constructed_weights(advantages, mode="awr")[0].tolist() == pytest.approx([math.exp(-1), math.exp(1)])
