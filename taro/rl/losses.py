"""Policy loss and KL loss over response tokens.

Shapes: B completions (of one or more groups), C completion tokens. What stands at masked positions, nan and inf
included, reaches neither a loss nor a gradient.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Ratio = Literal["token", "completion"]
Average = Literal["tokens", "completions", "constant"]


@dataclass(frozen=True)
class LossOutput:
    """The policy loss, and over the response tokens of free completions the metrics (detached; none: 0 and 1)."""

    loss: Tensor  # () with gradient
    clip_ratio: Tensor  # () share of tokens whose ratio left the clip range on the side that the clip cuts
    mean_ratio: Tensor  # () mean of policy / old policy; exactly 1 on policy


@dataclass(frozen=True)
class KLOutput:
    """The KL loss, and the mean KL over the given response tokens (detached), whatever the loss's denominator."""

    loss: Tensor  # () with gradient
    kl: Tensor  # () nats per token, of the bounded values


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    constructed: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    log_ratio_bound: float = 20.0,
    ratio_of: Ratio = "token",
    importance: Tensor | None = None,
    token_weights: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> LossOutput:
    """Sum of the token losses over `denominator`, the number of response tokens of the whole optimizer step.

    Free completions: the clipped surrogate of PPO, max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), which for A < 0
    is at most -A * dual_clip (dual clip, arXiv 1912.09729); r = exp(log_probs - old_log_probs), the exponent bounded at
    +-log_ratio_bound. With `ratio_of="completion"` the exponent is its mean over the completion, so that all of its tokens
    have one ratio (GSPO, arXiv 2507.18071). Constructed completions: -A log_probs without a ratio (TaRO, arXiv 2606.09248),
    where A is already the weight of `constructed_weights`.

    log_probs, old_log_probs (B, C); advantages (B,); response_mask (B, C), 1 = counted; constructed (B,) bool.
    `importance` (B, C) multiplies the surrogate of free completions (`taro.rl.importance`), `token_weights` (B, 1) all losses
    of a completion's tokens (`average_weights`). `denominator` defaults to the
    response tokens given here and counts as 1 when it is 0, so that a rank with nothing to train on gets a loss of 0 to run
    backward on. Raises ValueError for shapes that do not fit and `dual_clip <= 1`.
    """
    _require_shape(log_probs.shape, old_log_probs=old_log_probs, response_mask=response_mask)
    if importance is not None:
        _require_shape(log_probs.shape, importance=importance)
    _require_shape(log_probs.shape[:1], advantages=advantages, constructed=constructed)
    if not dual_clip > 1:
        raise ValueError(f"dual_clip must be > 1, got {dual_clip}")
    mask = response_mask.bool()  # (B, C)
    constructed = constructed.bool().unsqueeze(1)  # (B, 1)
    free = mask & ~constructed  # (B, C)
    weights = torch.where(mask, advantages.detach().unsqueeze(1), 0.0)  # (B, C)
    log_probs = torch.where(mask, log_probs, 0.0)  # (B, C)

    # The old log-probs may be the current ones themselves: without detach the gradient of the ratio would be zero.
    log_ratio = _mean_of(torch.where(free, log_probs - old_log_probs.detach(), 0.0), free, ratio_of)  # (B, C)
    ratio = log_ratio.clamp(-log_ratio_bound, log_ratio_bound).exp()  # (B, C)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)  # (B, C)
    raised = torch.maximum(ratio, clipped).clamp(max=dual_clip)  # (B, C)
    surrogate = torch.where(weights < 0, raised, torch.minimum(ratio, clipped))  # (B, C)
    if importance is not None:
        surrogate = torch.where(free, importance.detach(), 0.0) * surrogate  # (B, C)
    token_losses = -weights * torch.where(constructed, log_probs, surrogate)  # (B, C)
    if token_weights is not None:
        token_losses = token_weights * token_losses

    # The ratio is 1 outside `free`, so nothing is cut there.
    cut = ((weights > 0) & (ratio > 1 + clip_high)) | ((weights < 0) & (ratio < 1 - clip_low))  # (B, C)
    free_tokens = free.sum()
    return LossOutput(
        loss=token_losses.sum() / _at_least_one(mask.sum() if denominator is None else denominator),
        clip_ratio=cut.sum() / free_tokens.clamp(min=1),
        mean_ratio=torch.where(
            free_tokens > 0, torch.where(free, ratio.detach(), 0.0).sum() / free_tokens.clamp(min=1), 1.0
        ),
    )


def kl_loss(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    response_mask: Tensor,
    *,
    log_ratio_bound: float = 20.0,
    value_bound: float = 10.0,
    token_weights: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> KLOutput:
    """KL of the policy from the reference, sum of the token values over `denominator`, with `token_weights` (as in
    `policy_loss`).

    The k3 estimator exp(d) - d - 1 with d = ref_log_probs - log_probs, unbiased and never negative (J. Schulman,
    "Approximating KL divergence", http://joschu.net/blog/kl-approx.html). As in the released code of TaRO (verl's
    low_var_kl) d is bounded at +-log_ratio_bound and then a token's value at value_bound.

    A bounded value has no gradient: a token with a value above the bound adds value_bound to the loss and pulls the policy
    nowhere. With 10 these are the tokens with d > 2.61 (13.6 times likelier under the reference) or d < -11; all others
    have the gradient 1 - exp(d), at most 12.6 in size, where the unbounded value has exp(d) of a single token as its
    gradient, 163,000 at d = 12. The bound makes the estimator biased downwards where such tokens are drawn.

    log_probs, ref_log_probs, response_mask (B, C). Raises ValueError for shapes that do not fit.
    """
    _require_shape(log_probs.shape, ref_log_probs=ref_log_probs, response_mask=response_mask)
    mask = response_mask.bool()  # (B, C)
    log_ratio = torch.where(mask, ref_log_probs.detach() - log_probs, 0.0)  # (B, C)
    log_ratio = log_ratio.clamp(-log_ratio_bound, log_ratio_bound)
    values = (torch.expm1(log_ratio) - log_ratio).clamp(max=value_bound)  # (B, C), 0 where masked
    weighted = values if token_weights is None else token_weights * values
    tokens = mask.sum()
    return KLOutput(
        loss=weighted.sum() / _at_least_one(tokens if denominator is None else denominator),
        kl=values.detach().sum() / tokens.clamp(min=1),
    )


def average_weights(response_mask: Tensor, average: Average) -> Tensor | None:
    """What the loss of each token is multiplied with, (B, 1), before the sum is divided by `count_terms`; None: with 1.

    `tokens`: all response tokens of a step count alike (DAPO, arXiv 2503.14476); `completions`: all completions do, long or
    short (GRPO, arXiv 2402.03300; GSPO); `constant`: as `tokens`, divided by the tokens that there could have been (Dr. GRPO,
    arXiv 2503.20783).
    """
    return 1 / response_mask.sum(1, keepdim=True).clamp(min=1) if average == "completions" else None


def count_terms(response_mask: Tensor, average: Average, max_tokens: int) -> int:
    """What these completions add to the denominator of a step's loss. `max_tokens`: of a completion."""
    if average == "tokens":
        return int(response_mask.sum())
    completions = int(response_mask.any(1).sum())
    return completions * max_tokens if average == "constant" else completions


def _mean_of(log_ratio: Tensor, free: Tensor, ratio_of: Ratio) -> Tensor:
    """The log-ratios of the tokens as they are, or all of a completion as their mean; 0 outside `free`. (B, C) each."""
    if ratio_of == "token":
        return log_ratio
    mean = log_ratio.sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    return torch.where(free, mean, 0.0)


def _at_least_one(tokens: float | Tensor) -> Tensor:
    return torch.as_tensor(tokens).clamp(min=1)


def _require_shape(shape: torch.Size, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(tensor.shape)}")
