import math

import pytest
import torch

from taro.rl.losses import average_weights, count_terms, kl_loss, policy_loss

SETTINGS = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0, "log_ratio_bound": 20.0}


def slow_token_loss(log_prob, old, advantage, constructed, clip_low, clip_high, dual_clip, log_ratio_bound):
    if constructed:
        return -advantage * log_prob
    ratio = math.exp(min(max(log_prob - old, -log_ratio_bound), log_ratio_bound))
    clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
    loss = max(-advantage * ratio, -advantage * clipped)
    return min(loss, -advantage * dual_clip) if advantage < 0 else loss


def slow_gradient(log_prob, old, advantage, constructed, clip_low, clip_high, dual_clip, log_ratio_bound):
    """d loss / d log_prob: -A for constructed, -A r where nothing is clipped, else 0."""
    if constructed:
        return -advantage
    if abs(log_prob - old) > log_ratio_bound:
        return 0.0
    ratio = math.exp(log_prob - old)
    if advantage >= 0:
        return -advantage * ratio if ratio < 1 + clip_high else 0.0
    return -advantage * ratio if 1 - clip_low < ratio < dual_clip else 0.0


def random_batch(seed, rows=6, tokens=7):
    generator = torch.Generator().manual_seed(seed)
    log_probs = -3 * torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
    old = log_probs + torch.randn(rows, tokens, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, tokens, generator=generator) < 0.7
    constructed = torch.rand(rows, generator=generator) < 0.4
    return log_probs.requires_grad_(), old, advantages, mask, constructed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("denominator", [None, 100, torch.tensor(37)])
def test_policy_loss_and_gradient_match_the_slow_version(seed, denominator):
    log_probs, old, advantages, mask, constructed = random_batch(seed)
    output = policy_loss(log_probs, old, advantages, mask, constructed, denominator=denominator, **SETTINGS)
    output.loss.backward()
    total, gradient = 0.0, torch.zeros_like(log_probs)
    for row, column in mask.nonzero().tolist():
        arguments = (log_probs[row, column].item(), old[row, column].item(), advantages[row].item(), constructed[row])
        total += slow_token_loss(*arguments, **SETTINGS)
        gradient[row, column] = slow_gradient(*arguments, **SETTINGS)
    count = int(mask.sum() if denominator is None else denominator)
    assert output.loss.item() == pytest.approx(total / count)
    torch.testing.assert_close(log_probs.grad, gradient / count)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_equal_finite_differences(seed):
    log_probs, old, advantages, mask, constructed = random_batch(seed, rows=3, tokens=4)
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantages, mask, constructed).loss, log_probs)
    assert torch.autograd.gradcheck(lambda x: kl_loss(x, old, mask).loss, log_probs)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),
        (0.5, 2.0, -1.0, False),
        (1.5, -2.0, 3.0, False),
        (0.5, -2.0, 1.6, True),
        (4.0, -2.0, 6.0, False),  # dual clip
        (4.0, 0.0, 0.0, False),
    ],
)
def test_default_clips_by_hand(ratio, advantage, loss, is_clipped):
    log_probs = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
    row = torch.tensor([advantage], dtype=torch.float64)
    output = policy_loss(log_probs, torch.zeros_like(log_probs), row, torch.ones(1, 1), torch.tensor([False]))
    assert output.loss.item() == pytest.approx(loss)
    assert output.clip_ratio.item() == float(is_clipped)
    assert output.mean_ratio.item() == pytest.approx(ratio)


def test_ratio_is_bounded():
    log_probs = torch.tensor([[0.0, -900.0]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-900.0, 0.0]], dtype=torch.float64)
    output = policy_loss(
        log_probs, old, torch.ones(1), torch.ones(1, 2), torch.tensor([False]), log_ratio_bound=2.0, clip_high=99.0
    )
    assert output.loss.item() == pytest.approx(-(math.exp(2) + math.exp(-2)) / 2)
    assert output.mean_ratio.item() == pytest.approx((math.exp(2) + math.exp(-2)) / 2)


def test_dual_clip_can_be_switched_off():
    log_probs = torch.tensor([[math.log(50.0)]], dtype=torch.float64)
    arguments = (log_probs, torch.zeros_like(log_probs), -torch.ones(1), torch.ones(1, 1), torch.tensor([False]))
    assert policy_loss(*arguments, dual_clip=math.inf).loss.item() == pytest.approx(50.0)


def test_on_policy_the_gradient_is_the_policy_gradient():
    log_probs, _, advantages, mask, _ = random_batch(0)
    output = policy_loss(log_probs, log_probs, advantages, mask, torch.zeros(6, dtype=torch.bool))
    output.loss.backward()
    torch.testing.assert_close(log_probs.grad, -advantages[:, None] * mask / mask.sum())
    assert output.mean_ratio.item() == 1.0
    assert output.clip_ratio.item() == 0.0


def test_metrics_are_of_free_response_tokens_and_detached():
    log_probs = torch.tensor([[0.0, 1.0, 5.0], [9.0, 9.0, 9.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    output = policy_loss(log_probs, torch.zeros_like(log_probs), torch.ones(2), mask, torch.tensor([False, True]))
    assert output.mean_ratio.item() == pytest.approx((1 + math.e) / 2)
    assert output.clip_ratio.item() == 0.5
    assert output.loss.requires_grad and not output.mean_ratio.requires_grad and not output.clip_ratio.requires_grad


def test_metrics_without_free_tokens_are_neutral():
    log_probs, old, advantages, mask, _ = random_batch(0)
    output = policy_loss(log_probs, old, advantages, mask, torch.ones(6, dtype=torch.bool))
    assert (output.clip_ratio.item(), output.mean_ratio.item()) == (0.0, 1.0)


def test_constructed_completions_need_no_old_log_probs():
    log_probs, old, advantages, mask, constructed = random_batch(1)
    expected = torch.autograd.grad(policy_loss(log_probs, old, advantages, mask, constructed).loss, log_probs)[0]
    old[constructed] = math.nan
    output = policy_loss(log_probs, old, advantages, mask, constructed)
    torch.testing.assert_close(torch.autograd.grad(output.loss, log_probs)[0], expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_masked_values_reach_neither_loss_nor_gradient(value):
    log_probs, other, advantages, mask, constructed = random_batch(2)
    mask[3] = False

    def losses(garbage):
        scores = torch.where(mask, log_probs, garbage)
        references = torch.where(mask, other, garbage)
        signals = torch.where(mask.any(1), advantages, garbage)
        policy = policy_loss(scores, references, signals, mask, constructed)
        kl = kl_loss(scores, references, mask)
        gradients = [torch.autograd.grad(output.loss, scores, retain_graph=True)[0] for output in (policy, kl)]
        return torch.stack([policy.loss, policy.clip_ratio, policy.mean_ratio, kl.loss, kl.kl]), torch.stack(gradients)

    values, gradients = losses(value)
    expected_values, expected_gradients = losses(-1.0)
    assert torch.equal(values, expected_values)
    assert torch.equal(gradients, expected_gradients)
    assert not gradients[:, ~mask].any()
    assert gradients[:, mask].any()


@pytest.mark.parametrize("tokens", [0, 4])
@pytest.mark.parametrize("denominator", [None, 0, 5, torch.tensor(0)])
def test_empty_mask_gives_zero_with_a_graph(tokens, denominator):
    scores = torch.full((2, tokens), math.nan, requires_grad=True)
    mask, constructed = torch.zeros(2, tokens), torch.tensor([True, False])
    policy = policy_loss(scores, scores, torch.ones(2), mask, constructed, denominator=denominator)
    kl = kl_loss(scores, scores, mask, denominator=denominator)
    (policy.loss + kl.loss).backward()
    assert policy.loss.item() == kl.loss.item() == kl.kl.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_parts_of_a_step_add_up_to_the_whole():
    log_probs, old, advantages, mask, constructed = random_batch(3)
    tokens = mask.sum()
    whole = policy_loss(log_probs, old, advantages, mask, constructed).loss + kl_loss(log_probs, old, mask).loss
    parts = 0
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part = (log_probs[rows], old[rows], advantages[rows], mask[rows], constructed[rows])
        parts += policy_loss(*part, denominator=tokens).loss + kl_loss(*part[:2], mask[rows], denominator=tokens).loss
    torch.testing.assert_close(parts, whole)


def slow_kl(difference, log_ratio_bound=20.0, value_bound=10.0):
    """A token's value and its gradient in the log-prob: none where either bound holds the value."""
    bounded = min(max(difference, -log_ratio_bound), log_ratio_bound)
    value = math.exp(bounded) - bounded - 1
    if bounded != difference or value > value_bound:
        return min(value, value_bound), 0.0
    return value, 1 - math.exp(difference)


@pytest.mark.parametrize("denominator", [None, 50])
@pytest.mark.parametrize("spread", [1.0, 8.0, 30.0])
def test_kl_loss_and_gradient_match_the_slow_version(denominator, spread):
    log_probs, ref, _, mask, _ = random_batch(4)
    ref = log_probs.detach() + spread * (ref - log_probs.detach())
    output = kl_loss(log_probs, ref, mask, denominator=denominator)
    output.loss.backward()
    total, gradient = 0.0, torch.zeros_like(log_probs)
    for row, column in mask.nonzero().tolist():
        value, slope = slow_kl((ref[row, column] - log_probs[row, column]).item())
        total, gradient[row, column] = total + value, slope
    assert spread == 1.0 or 0 < int((gradient[mask] == 0).sum()) < int(mask.sum())
    count = int(mask.sum() if denominator is None else denominator)
    assert output.loss.item() == pytest.approx(total / count)
    assert output.kl.item() == pytest.approx(total / int(mask.sum()))
    assert not output.kl.requires_grad
    torch.testing.assert_close(log_probs.grad, gradient / count)


def test_kl_by_hand():
    output = kl_loss(torch.tensor([[0.0, -1.0]]), torch.tensor([[0.0, 0.0]]), torch.ones(1, 2))
    assert output.loss.item() == pytest.approx((math.e - 2) / 2)


@pytest.mark.parametrize(
    ("difference", "value", "gradient"),
    [
        (2.6, math.exp(2.6) - 3.6, 1 - math.exp(2.6)),
        (2.62, 10.0, 0.0),
        (12.0, 10.0, 0.0),
        (900.0, 10.0, 0.0),
        (-10.9, 9.9 + math.exp(-10.9), 1 - math.exp(-10.9)),
        (-11.1, 10.0, 0.0),
    ],
)
def test_one_token_weighs_no_more_than_the_bound(difference, value, gradient):
    """Float32, as in training. Without the bound the token at d = 12 has a value of 163,000."""
    log_probs = torch.tensor([[-difference]], requires_grad=True)
    output = kl_loss(log_probs, torch.zeros(1, 1), torch.ones(1, 1))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(value, rel=1e-5)
    assert log_probs.grad.item() == pytest.approx(gradient, rel=1e-5)
    unbounded = kl_loss(log_probs, torch.zeros(1, 1), torch.ones(1, 1), log_ratio_bound=12.0, value_bound=math.inf)
    bounded = min(max(difference, -12.0), 12.0)
    assert unbounded.loss.item() == pytest.approx(math.exp(bounded) - bounded - 1, rel=1e-5)


def test_kl_is_the_expected_log_ratio_in_the_mean_and_bounded():
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    token_kl = torch.stack([kl_loss(p.log()[None, None], r.log()[None, None], torch.ones(1, 1)).kl
                            for p, r in zip(policy, reference, strict=True)])  # fmt: skip
    torch.testing.assert_close((policy * token_kl).sum(), (policy * (policy / reference).log()).sum())
    far = kl_loss(torch.tensor([[-900.0]]), torch.zeros(1, 1), torch.ones(1, 1), log_ratio_bound=3.0, value_bound=99.0)
    assert far.kl.item() == pytest.approx(math.exp(3) - 4)
    assert kl_loss(torch.tensor([[-900.0]]), torch.zeros(1, 1), torch.ones(1, 1)).kl.isfinite()


def test_reference_gets_no_gradient():
    log_probs, ref, _, mask, _ = random_batch(5)
    ref.requires_grad_()
    kl_loss(log_probs, ref, mask).loss.backward()
    assert ref.grad is None


def test_errors_say_what_does_not_fit():
    log_probs, old, advantages, mask, constructed = random_batch(0)
    with pytest.raises(ValueError, match=r"old_log_probs must have the shape \(6, 7\), got \(6, 6\)"):
        policy_loss(log_probs, old[:, 1:], advantages, mask, constructed)
    with pytest.raises(ValueError, match=r"advantages must have the shape \(6,\), got \(6, 1\)"):
        policy_loss(log_probs, old, advantages[:, None], mask, constructed)
    with pytest.raises(ValueError, match=r"constructed must have the shape \(6,\), got \(1,\)"):
        policy_loss(log_probs, old, advantages, mask, constructed[:1])
    with pytest.raises(ValueError, match="dual_clip must be > 1, got 1"):
        policy_loss(log_probs, old, advantages, mask, constructed, dual_clip=1.0)
    with pytest.raises(ValueError, match="response_mask must have the shape"):
        kl_loss(log_probs, old, mask[:1])


@pytest.mark.parametrize("seed", range(5))
def test_a_ratio_of_whole_completions_matches_the_slow_version(seed):
    """GSPO: the loss of a completion is its surrogate with the geometric mean of the ratios, once for each of its tokens."""
    log_probs, old, advantages, mask, constructed = random_batch(seed)
    output = policy_loss(log_probs, old, advantages, mask, constructed, ratio_of="completion", **SETTINGS)
    output.loss.backward()
    total, gradient = 0.0, torch.zeros_like(log_probs)
    for row in range(len(log_probs)):
        columns = mask[row].nonzero().flatten().tolist()
        means = [float(values.detach()[row, columns].mean()) if columns else 0.0 for values in (log_probs, old)]
        for column in columns:
            own = (log_probs[row, column].item(), 0.0) if constructed[row] else means
            total += slow_token_loss(*own, advantages[row].item(), constructed[row], **SETTINGS)
            gradient[row, column] = slow_gradient(*own, advantages[row].item(), constructed[row], **SETTINGS)
    assert output.loss.item() == pytest.approx(total / int(mask.sum()))
    torch.testing.assert_close(log_probs.grad, gradient / mask.sum())


def test_averages_by_hand():
    """Two completions of 3 tokens and 1 token, of at most 4; the losses are -1 and -2 a token."""
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    zeros, free = torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)
    for average, terms, expected in (("tokens", 4, -5 / 4), ("completions", 2, -3 / 2), ("constant", 8, -5 / 8)):
        assert count_terms(mask, average, max_tokens=4) == terms
        weights = average_weights(mask, average)
        found = policy_loss(
            zeros, zeros, torch.tensor([1.0, 2.0, 3.0]), mask, free, token_weights=weights, denominator=terms
        )
        assert found.loss.item() == pytest.approx(expected)
        kl = kl_loss(zeros, torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 4), mask, token_weights=weights, denominator=terms)
        first, second = math.exp(1) - 2, math.exp(2) - 3
        parts = {"tokens": (3 * first + second) / 4, "completions": (first + second) / 2, "constant": (3 * first + second) / 8}
        assert kl.loss.item() == pytest.approx(parts[average])
        assert kl.kl.item() == pytest.approx((3 * first + second) / 4)  # the log's is always of tokens
