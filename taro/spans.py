"""Spans of time, (start, end) in seconds, and how far two of them agree."""

import math
from collections.abc import Iterable

Span = tuple[float, float]


def temporal_iou(span: Span | None, truth: Span) -> float:
    """Intersection over union of two time spans, in [0, 1] and in double precision.

    A missing, reversed, empty or non-finite span scores 0, and so does such a truth.
    """
    if span is None or not all(map(math.isfinite, (*span, *truth))):
        return 0.0
    (start, end), (true_start, true_end) = span, truth
    intersection = min(end, true_end) - max(start, true_start)
    if intersection <= 0:  # also where either span is reversed or empty
        return 0.0
    return intersection / (max(end, true_end) - min(start, true_start))  # spans that meet: the hull is the union


def best_iou(span: Span | None, truths: Iterable[Span]) -> float:
    """IoU with the true span that fits best, of one or more."""
    return max(temporal_iou(span, truth) for truth in truths)
