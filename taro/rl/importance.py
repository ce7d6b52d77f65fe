"""An engine that is not the policy itself samples from slightly other probabilities: how far off it is, and what corrects it.

G completions, C tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

LARGEST_MISMATCH = 0.02  # nats per token; a stale engine has about 0.2


@dataclass(frozen=True)
class Mismatch:
    """Of the sampled tokens that the engine gave a finite log-prob."""

    difference_mean: float  # of |policy's log-prob - engine's|, nats
    difference_max: float
    kl: float  # of the engine's distribution from the policy's, nats per token
    tokens: int

    def warn(self) -> bool:
        """Say where an engine is too far off. Returns whether it is."""
        if self.difference_mean <= LARGEST_MISMATCH:
            return False
        rank_zero_warn(
            f"the engine's log-probs are {self.difference_mean:.3f} nats off the policy's on average, more than "
            f"{LARGEST_MISMATCH}: are its weights, its dtype and its kernels the policy's? Logged as "
            "sampling/sampling_logp_difference."
        )
        return True


def measure_mismatch(log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor) -> Mismatch | None:
    """How far the engine's log-probs are from the policy's, all (G, C), over `mask`; None where nothing can be compared.

    The KL is the k3 estimator with samples of the engine, r - 1 - log r with r = policy / engine
    (http://joschu.net/blog/kl-approx.html).
    """
    difference = (log_probs - rollout_log_probs)[mask & rollout_log_probs.isfinite() & log_probs.isfinite()].double()
    if not len(difference):
        return None
    kl = torch.expm1(difference) - difference
    magnitude = difference.abs()
    return Mismatch(float(magnitude.mean()), float(magnitude.max()), float(kl.mean()), len(difference))


def importance_weights(log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Token-level truncated importance weights, min(policy / engine, cap), (G, C): 1 outside of `mask`.

    (Truncated importance sampling: Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025.)
    """
    ratio = (log_probs - rollout_log_probs).exp().clamp(max=cap)
    return torch.where(mask, ratio, 1.0).detach()
