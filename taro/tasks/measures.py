"""How well predicted and true spans agree, beside the IoU of unions (`taro.spans`). Spans are (start, end) in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from taro.matching import match_freely
from taro.spans import Span, temporal_iou

LEVELS = (0.3, 0.5, 0.7)  # of the IoU
_NOTHING = (0.0, 0.0)


def paired_ious(predicted: Sequence[Span], truth: Sequence[Span]) -> list[float]:
    """IoU of the pairs in their order; what the longer list has more is a pair with IoU 0."""
    return [temporal_iou(span, true) for span, true in zip_longest(predicted, truth, fillvalue=_NOTHING)]


def mean_paired_iou(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """Mean of `paired_ious`; 1 where both sides are empty. In [0, 1]."""
    ious = paired_ious(predicted, truth)
    return sum(ious) / len(ious) if ious else 1.0


def f1_at(predicted: Sequence[Span], truth: Sequence[Span], level: float) -> float:
    """2 M / (Np + Ng) of the largest matching, of M pairs, in which each has at least this IoU; 1 where both are empty."""
    if not predicted and not truth:
        return 1.0
    reached = [[float(temporal_iou(span, true) >= level) for true in truth] for span in predicted]  # (Np, Ng)
    return 2 * len(match_freely(reached)) / (len(predicted) + len(truth))


def f1_scores(predicted: Sequence[Span] | None, truth: Sequence[Span]) -> dict[str, float]:
    """`F1@level` of each level, and their mean; 0 for an answer that can't be read."""
    at = [0.0 if predicted is None else f1_at(predicted, truth, level) for level in LEVELS]
    return {**{f"F1@{level}": value for level, value in zip(LEVELS, at, strict=True)}, "mF1": sum(at) / len(at)}
