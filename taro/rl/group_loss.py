"""The loss of one group in an update: the surrogate and the KL.

G completions, C tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taro.rl.group import Group
from taro.rl.group_rewards import GroupRewards
from taro.rl.importance import importance_weights
from taro.rl.losses import KLOutput, LossOutput, average_weights, kl_loss, policy_loss
from taro.rl.settings import LossSettings


@dataclass(frozen=True)
class TrainingGroup:
    """All that an update needs of a group. Filled in a step's first pass, read by all of its updates, and by who shows it."""

    group: Group
    rewards: GroupRewards
    old_log_probs: Tensor  # (G, C) under the policy that made the rollout
    ref_log_probs: Tensor | None  # (G, C), None without a KL term
    shuffled_log_probs: Tensor | None = None  # (G, C), None where the temporal gaps were not measured


@dataclass(frozen=True)
class GroupLoss:
    """A group's part of the loss of a step, and what is logged of it."""

    loss: Tensor  # () with gradient
    policy: LossOutput
    kl: KLOutput | None
    tokens: int  # that count


def group_loss(
    training: TrainingGroup, log_probs: Tensor, settings: LossSettings, *, on_policy: bool, denominator: int
) -> GroupLoss:
    """Sum over the group's tokens, divided by `denominator`, what `count_terms` says of the whole step.

    Args:
        log_probs: (G, C) of the current policy, with gradient.
        on_policy: the rollout is the policy's own; the tokens of another engine are weighted.
    """
    group, device = training.group, log_probs.device
    # A vision token that another engine let through can't be learned from: its log-prob is -inf by definition.
    mask = group.learned_mask(on_policy) & ~log_probs.isneginf()
    importance = None
    if not on_policy and settings.importance_cap is not None:
        importance = importance_weights(
            training.old_log_probs, group.rollout_log_probs, group.sampled_mask & mask, settings.importance_cap
        )
    weights = average_weights(mask, settings.average)
    policy = policy_loss(
        log_probs,
        training.old_log_probs,
        training.rewards.advantages.to(device),
        mask,
        group.example.constructed.to(device),
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
        log_ratio_bound=settings.log_ratio_bound,
        ratio_of=settings.ratio,
        importance=importance,
        token_weights=weights,
        denominator=denominator,
    )
    if training.ref_log_probs is None:
        return GroupLoss(policy.loss, policy, None, int(mask.sum()))
    kl = kl_loss(
        log_probs,
        training.ref_log_probs,
        mask,
        log_ratio_bound=settings.log_ratio_bound,
        value_bound=settings.kl_bound,
        token_weights=weights,
        denominator=denominator,
    )
    return GroupLoss(policy.loss + settings.kl_coefficient * kl.loss, policy, kl, int(mask.sum()))
