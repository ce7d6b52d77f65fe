import json
import math
import statistics

import pytest
import torch

from taro.rl.advantages import (
    EMAStd,
    batch_advantages,
    constructed_weights,
    dgrpo_weights,
    group_advantages,
    leave_one_out_advantages,
    separate_advantages,
)


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


REWARDS = torch.rand(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_batch_std():
    flat = REWARDS.flatten().tolist()
    for row, group in zip(batch_advantages(REWARDS).tolist(), REWARDS.tolist(), strict=True):
        expected = [(reward - statistics.mean(group)) / (statistics.stdev(flat) + 1e-6) for reward in group]
        assert row == pytest.approx(expected)
    assert not batch_advantages(torch.full((3, 4), 0.1)).any()


def test_leave_one_out():
    for row, group in zip(leave_one_out_advantages(REWARDS).tolist(), REWARDS.tolist(), strict=True):
        others = [statistics.mean(group[:i] + group[i + 1 :]) for i in range(len(group))]
        assert row == pytest.approx([reward - other for reward, other in zip(group, others, strict=True)])
    assert leave_one_out_advantages(torch.tensor([[3.0, 0.0, 0.0]])).tolist() == [[3.0, -1.5, -1.5]]


def test_each_reward_on_its_own():
    rewards = {"large": 100 * REWARDS, "small": REWARDS.flip(1)}
    expected = group_advantages(REWARDS, eps=0) + 0.5 * group_advantages(REWARDS.flip(1), eps=0)
    torch.testing.assert_close(separate_advantages(rewards, {"large": 1.0, "small": 0.5}, eps=0), expected)
    constant = separate_advantages({**rewards, "format": torch.ones(5, 4)}, {"large": 1.0, "small": 0.5, "format": 9.0})
    torch.testing.assert_close(constant, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("group", "weight"), [([0, 0], 1.0), ([1, 1], 1.0), ([1.5, 1.5], 0.75), ([2, 1], 0.75), ([2, 2], 0.5)])
def test_dgrpo_weights(group, weight):
    accuracy = torch.tensor([group, [0, 1]], dtype=torch.float64)
    assert dgrpo_weights(accuracy).tolist() == [weight, 1.0]


def test_trap_the_released_mean_has_the_bonuses():
    """Format kept and a tool called twice: two groups of another difficulty weigh the same."""
    accuracy, bonuses = torch.tensor([[0.0, 0.25], [0.75, 1.0]]), 1 + 2 * 0.5
    assert dgrpo_weights(accuracy + 1).tolist() == pytest.approx([1 - 0.0625, 1 - 0.4375])  # accuracy and format
    assert dgrpo_weights(accuracy + bonuses).tolist() == [0.5, 0.5]
    assert dgrpo_weights(accuracy).tolist() == [1.0, 1.0]  # an accuracy alone is never above 1


def slow_ema(batches, decay, form):
    """One task's advantages after each batch, of lists of groups."""
    first = second = None
    for groups in batches:
        rewards = [reward for group in groups for reward in group]
        now = statistics.fmean(rewards), statistics.fmean(reward**2 for reward in rewards)
        first, second = now if first is None else (decay * first + (1 - decay) * now[0], decay * second + (1 - decay) * now[1])
        std = max(1e-3, math.sqrt(max(0.0, second - first**2)))
        rows = []
        for group in groups:
            centred = [reward - statistics.fmean(group) for reward in group]
            row = [value / std for value in centred]
            if form == "published":
                row = [min(5.0, max(-5.0, value)) for value in row]
            elif max(map(abs, row)) > 5:
                row = [value / max(1e-3, statistics.pstdev(group)) for value in centred]
            rows.append(row)
        yield rows


@pytest.mark.parametrize("form", ["published", "released"])
def test_ema_std_matches_the_slow_version(form):
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(6, 4, generator=generator, dtype=torch.float64) * (0.01 if step < 2 else 1) for step in range(5)]
    tasks = ["grounding", "dense"] * 3
    ema, beyond = EMAStd(form=form), 0
    slow = [slow_ema([batch[start::2].tolist() for batch in batches], 0.99, form) for start in (0, 1)]
    for batch in batches:
        advantages = ema(batch, tasks)
        for start in (0, 1):
            expected = torch.tensor(next(slow[start]), dtype=torch.float64)
            torch.testing.assert_close(advantages[start::2], expected)
        beyond += int((advantages.abs() == 5).sum()) if form == "published" else 1
    assert beyond


def test_ema_std_by_hand():
    """Two prompts, all of one right and all of the other wrong: the variance between prompts is in the std."""
    ema = EMAStd()
    assert not ema(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), ["a", "a"]).any() and ema.std("a") == 0.5
    assert ema.advantages(torch.tensor([[1.0, 0.0]]), ["a"]).tolist() == [[1.0, -1.0]]
    ema(torch.tensor([[1.0, 1.0]]), ["b"])
    assert ema.std("b") == 1e-3
    bounded = torch.tensor([[1.0, 0.0]])
    assert ema.advantages(bounded, ["b"]).tolist() == [[5.0, -5.0]]
    ema.form = "released"
    assert ema.advantages(bounded, ["b"]).tolist() == [[1.0, -1.0]]


def test_ema_std_goes_on_where_it_was():
    """The released state is a global of the process: after a resume its first batch starts the averages anew."""
    batches, tasks = [REWARDS, REWARDS.flip(0) * 3, REWARDS.square()], ["a", "b", "a", "b", "c"]
    whole, first, second = EMAStd(), EMAStd(), EMAStd()
    for batch in batches[:2]:
        whole(batch, tasks), first(batch, tasks)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    torch.testing.assert_close(second(batches[2], tasks), whole(batches[2], tasks), rtol=0, atol=0)
    assert not torch.equal(EMAStd()(batches[2], tasks), whole.advantages(batches[2], tasks))


def test_ema_std_is_that_of_all_ranks():
    tasks = ["a", "b", "a", "b", "a"]
    expected = EMAStd()(REWARDS, tasks)
    for rank in (slice(0, 2), slice(2, 5)):
        ema = EMAStd()
        ema.update(REWARDS, tasks)
        torch.testing.assert_close(ema.advantages(REWARDS[rank], tasks[rank]), expected[rank], rtol=0, atol=0)


def test_ema_std_errors():
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1, got 1"):
        EMAStd(decay=1)
    with pytest.raises(ValueError, match="got 'paper'"):
        EMAStd(form="paper")
