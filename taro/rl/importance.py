"""An engine that is not the policy itself samples from slightly other probabilities: how far off it is, and what corrects it.

G completions, C tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mismatch:
    """Of the sampled tokens that the engine gave a finite log-prob."""

    difference_mean: float  # of |policy's log-prob - engine's|, nats
    difference_max: float
    kl: float  # of the engine's distribution from the policy's, nats per token
    tokens: int


def measure_mismatch(log_probs: Tensor, engine_log_probs: Tensor, mask: Tensor) -> Mismatch | None:
    """How far the engine's log-probs are from the policy's, all (G, C), over `mask`; None where nothing can be compared.

    The KL is the k3 estimator with samples of the engine, r - 1 - log r with r = policy / engine
    (http://joschu.net/blog/kl-approx.html).
    """
    difference = (log_probs - engine_log_probs)[mask & engine_log_probs.isfinite() & log_probs.isfinite()].double()
    if not len(difference):
        return None
    kl = torch.expm1(difference) - difference
    magnitude = difference.abs()
    return Mismatch(float(magnitude.mean()), float(magnitude.max()), float(kl.mean()), len(difference))


def importance_weights(log_probs: Tensor, engine_log_probs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Token-level truncated importance weights, min(policy / engine, cap), (G, C): 1 outside of `mask`.

    (Truncated importance sampling: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025.)
    """
    ratio = (log_probs - engine_log_probs).exp().clamp(max=cap)
    return torch.where(mask, ratio, 1.0).detach()
