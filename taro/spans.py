"""Spans of time, (start, end) in seconds, and how far two of them agree."""

from collections.abc import Iterable, Sequence

Span = tuple[float, float]
LATEST = 1e12  # seconds: a number beyond it is no time, and lengths and sums of those within it are finite


def is_time(seconds: float) -> bool:
    """Whether a number could be a time: neither NaN nor farther from 0 than `LATEST`. It may be below 0."""
    return abs(seconds) <= LATEST


def temporal_iou(span: Span | None, truth: Span) -> float:
    """Intersection over union of two time spans, in [0, 1] and in double precision.

    A span that is missing, reversed or empty, or whose ends are no times, scores 0, and so does such a truth.
    """
    if span is None or not all(map(is_time, (*span, *truth))):
        return 0.0
    (start, end), (true_start, true_end) = span, truth
    intersection = min(end, true_end) - max(start, true_start)
    if intersection <= 0:  # also where either span is reversed or empty
        return 0.0
    return intersection / (max(end, true_end) - min(start, true_start))  # spans that meet: the hull is the union


def best_iou(span: Span | None, truths: Iterable[Span]) -> float:
    """IoU with the true span that fits best; 0 where there is none."""
    return max((temporal_iou(span, truth) for truth in truths), default=0.0)


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """The union of spans as disjoint ones in order of time: those that overlap, nest or touch become one.

    Spans without a length (reversed, empty, or of what is no time) are left out.
    """
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span_length(span) > 0):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def span_length(span: Span) -> float:
    """Seconds; 0 for one that is reversed, empty, or whose ends are no times."""
    start, end = span
    return max(0.0, end - start) if is_time(start) and is_time(end) else 0.0


def total_length(spans: Iterable[Span]) -> float:
    """Seconds of the union of spans."""
    return sum(end - start for start, end in merge_spans(spans))


def overlap_length(first: Iterable[Span], second: Iterable[Span]) -> float:
    """Seconds that are in the union of the first spans and in the union of the second ones."""
    other = merge_spans(second)
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in merge_spans(first) for b in other)


def union_iou(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """Intersection over union of two unions of spans, in [0, 1].

    No truth and no prediction agree: 1. A prediction where there is no truth, none where there is one, and lengths of 0 are 0.
    """
    if not predicted and not truth:
        return 1.0
    overlap = overlap_length(predicted, truth)
    return overlap / (total_length(predicted) + total_length(truth) - overlap) if overlap else 0.0
