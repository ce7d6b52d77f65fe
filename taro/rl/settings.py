"""Settings of the method, with the published values as defaults (TaRO, arXiv 2606.09248 and its released scripts)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taro.ranges import AboveOne, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share
from taro.rl.losses import Average, Ratio
from taro.rl.temporal_gap import GapTokens
from taro.video.perturbation import FrameShuffle, SpanShuffle

OF_STEP = ("batch", "ema", "ema_released")  # scales relative to all groups of a step


@dataclass(frozen=True)
class TemporalRewardSettings:
    """The temporal-sensitivity reward.

    Args:
        bonus: paid for a correct answer whose reasoning depends on the order of the frames.
        iou_gate: least IoU of a correct answer.
        margin: how far above the group's mean gap a gap must be, nats per token.
        threshold: `mean` of the group, or a fixed gap in nats per token.
        window: which frames are shuffled: those near the `boundaries` of the truth (the paper), or those inside its `spans`,
            where what is seen stays the same and its order does not.
        radius: near a boundary are the frames within this many seconds.
        tokens: what the gap averages over: all of the `response` (released code), the `think` block (paper), the
            numbers of its time ranges (`timestamps`), or its lines about the span that is answered (`answered`). What was
            constructed of a completion counts as the rest does.
        permutation: one shuffled video for the `group` (its gaps compare like with like), or one for each `completion`.
        measured: the gaps of which groups are measured: of `payable` ones, in which a completion reaches the gate, since the
            others' change no reward; or of `all`, for the log. The shuffled passes are left out for the rest.
    """

    bonus: float = 0.3
    iou_gate: Share = 0.7
    margin: float = 0.0
    threshold: Literal["mean"] | float = "mean"
    window: Literal["boundaries", "spans"] = "boundaries"
    radius: PositiveFloat = 3.0
    tokens: GapTokens = "response"
    permutation: Literal["group", "completion"] = "group"
    measured: Literal["payable", "all"] = "payable"

    @property
    def shuffle(self) -> FrameShuffle | SpanShuffle:
        return SpanShuffle() if self.window == "spans" else FrameShuffle(self.radius)


@dataclass(frozen=True)
class AdvantageSettings:
    """How rewards become weights.

    Args:
        scale: divide by the group's standard deviation (`std`, GRPO) or not (`none`, Dr. GRPO); compare each with the mean of
            the others (`leave_one_out`, RLOO); divide each reward by its own (`separate`, GDPO); or weigh groups by difficulty,
            after `std`, by the mean of IoU and format (`dgrpo`, VITAL) or of all rewards (`dgrpo_released`, its code); or
            divide by the standard deviation of all rewards of the step (`batch`), or by the moving one of the task's (`ema`,
            OneThinker; `ema_released`, its code): these have to know all rewards before any pass, so that
            model.temporal_reward must be null.
        constructed: what the advantages of constructed completions are mapped to: `mask` max(A, 0), `awr` exp(A / beta),
            `clone` 1 where A > 0, `raft` 1 for the group's best.
        beta: temperature of `awr`.
        decay: of the moving standard deviation, of each step.
    """

    scale: Literal[
        "std", "none", "leave_one_out", "separate", "dgrpo", "dgrpo_released", "batch", "ema", "ema_released"
    ] = "std"
    constructed: Literal["mask", "awr", "clone", "raft"] = "mask"
    beta: PositiveFloat = 1.0
    decay: Share = 0.99

    @property
    def of_step(self) -> bool:
        """Whether they are relative to all groups of a step."""
        return self.scale in OF_STEP


@dataclass(frozen=True)
class LossSettings:
    """The clipped surrogate and the KL term.

    Args:
        average: over all `tokens` of a step (DAPO), over its `completions`, long or short (GRPO), or over the tokens that there
            could have been, a `constant` (Dr. GRPO).
        ratio: of each `token`, or one of the whole `completion`, the geometric mean of its tokens' (GSPO).
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        dual_clip: bound of the ratio where the advantage is negative.
        log_ratio_bound: bound of the log-ratio.
        kl_coefficient: weight of the KL from the reference; 0 keeps no reference in memory.
        kl_bound: bound of a token's KL, nats; tokens above it have no KL gradient. `.inf` leaves it out.
        updates: optimizer steps for each batch of rollouts. With 1 the ratio is exactly 1.
        importance_cap: bound of the weights policy / engine by which tokens of another engine than the native one count
            (truncated importance sampling); None counts all alike.
    """

    average: Average = "tokens"
    ratio: Ratio = "token"
    clip_low: NonNegativeFloat = 0.2
    clip_high: NonNegativeFloat = 0.2
    dual_clip: AboveOne = 3.0
    log_ratio_bound: PositiveFloat = 20.0
    kl_coefficient: NonNegativeFloat = 0.01
    kl_bound: PositiveFloat = 10.0
    updates: PositiveInt = 1
    importance_cap: PositiveFloat | None = 2.0


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW.

    Args:
        learning_rate: the highest; `constant` keeps it.
        schedule: of the learning rate after the warm-up, over the steps of the whole run: `constant`, or down to `final_share`
            by a `linear` or a `cosine` decay. All updates of a step have the same rate.
        warmup_steps: training steps in which the rate rises.
        final_share: of `learning_rate`, where a decay ends.
        weight_decay: decoupled.
        clip_norm: the gradient's norm is clipped to this.
        most_skipped: steps in a row with a gradient that is not finite, and so without an update, before the run stops.
    """

    learning_rate: PositiveFloat = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    final_share: Share = 0.0
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat = 1.0
    most_skipped: PositiveInt = 5
