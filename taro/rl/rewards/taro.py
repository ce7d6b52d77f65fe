"""TaRO (arXiv 2606.09248): format, timestamp IoU, temporal sensitivity. Times are seconds.

Shapes: G completions of one prompt.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from taro.prompts import has_format
from taro.spans import Span, temporal_iou


def format_reward(text: str) -> float:
    """1.0 if the text is one think block and then one answer block (`taro.prompts.has_format`), else 0.0."""
    return float(has_format(text))


def timestamp_iou_reward(span: Span | None, truth: Span, duration: float) -> float:
    """IoU * (1 - |s - s*| / T) * (1 - |e - e*| / T), in [0, 1] (Time-R1, arXiv 2503.13377).

    The truth (s*, e*) is cut to the video [0, T] first; `duration` is T. A span of None scores 0, and so does one that
    is reversed, empty, or off by more than T at one end. Raises ValueError unless `duration > 0`.
    """
    if not duration > 0:
        raise ValueError(f"duration must be a number of seconds > 0, got {duration}")
    cut_start, cut_end = (min(max(time, 0.0), duration) for time in truth)
    iou = temporal_iou(span, (cut_start, cut_end))
    if iou == 0:
        return 0.0
    start_closeness = max(0.0, 1 - abs(span[0] - cut_start) / duration)
    end_closeness = max(0.0, 1 - abs(span[1] - cut_end) / duration)
    return iou * start_closeness * end_closeness


def best_truth(span: Span | None, truths: Sequence[Span]) -> Span:
    """The truth with the highest IoU with `span`, the first one of equals. Raises ValueError without truths."""
    if not len(truths):
        raise ValueError("a sample needs at least one true span, got none")
    return max(truths, key=lambda truth: temporal_iou(span, truth))


def temporal_reward(
    gaps: Tensor,
    ious: Tensor,
    *,
    bonus: float = 0.3,
    iou_gate: float = 0.7,
    margin: float = 0.0,
    threshold: Literal["mean"] | float = "mean",
) -> Tensor:
    """`bonus` for a good answer whose text depends on the order of the frames (TaRO, arXiv 2606.09248), else 0.

    Paid where the IoU is at least `iou_gate` and the temporal gap lies strictly above the threshold: the mean gap of
    the group plus `margin`, or `threshold` itself where it is a number (`margin` is then not used). Gaps that are not
    finite never earn and are left out of the mean. gaps (G,), ious (G,) -> (G,). Raises ValueError for other shapes
    and for an unknown threshold.
    """
    if gaps.dim() != 1 or gaps.shape != ious.shape:
        raise ValueError(
            f"gaps and ious must be of one shape (completions,), got {tuple(gaps.shape)} and {tuple(ious.shape)}"
        )
    finite = gaps.isfinite()  # (G,)
    if threshold == "mean":
        limit = gaps[finite].mean() + margin  # nan without finite gaps: nothing is above it
    elif isinstance(threshold, (int, float)):
        limit = threshold
    else:
        raise ValueError(f'threshold must be "mean" or a number, got {threshold!r}')
    earned = finite & (gaps > limit) & (ious >= iou_gate)  # (G,)
    return bonus * earned.to(gaps.dtype)
