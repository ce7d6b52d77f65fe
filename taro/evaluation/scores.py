"""What one answer scores. Spans are (start, end) in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taro.prompts import has_format, reasoning_has_timestamp
from taro.spans import Span, temporal_iou

IOU_LEVELS = (0.3, 0.5, 0.7)
METRICS = ("mIoU", *(f"R1@{level}" for level in IOU_LEVELS), "parse_rate", "timestamp_rate", "format_rate")


@dataclass(frozen=True)
class AnswerScores:
    """What one answer adds to the metrics; their values are the means of these over all samples."""

    iou: float
    hits: tuple[bool, ...]  # for each of IOU_LEVELS
    parsed: bool
    timestamped: bool  # the reasoning names a time
    formatted: bool  # one think block, then one answer block

    @property
    def values(self) -> tuple[float, ...]:
        """In the order of METRICS."""
        return (self.iou, *map(float, self.hits), float(self.parsed), float(self.timestamped), float(self.formatted))


def best_iou(span: Span | None, truths: Sequence[Span]) -> float:
    """IoU with the true span that fits best."""
    return max(temporal_iou(span, truth) for truth in truths)


def score_answer(span: Span | None, truths: Sequence[Span], text: str | None, strict: bool = False) -> AnswerScores:
    """The scores of one answer.

    The IoU is compared as it is, in float64, like the published scorers do: an IoU that is 0.7 on paper may be
    0.7 - 1e-16 when its ends are no binary fractions, and then misses the level.

    Args:
        span: the parsed answer; None where there is none.
        truths: the true spans, one or more; the best IoU counts.
        text: the completion; None where there is none.
        strict: R1 counts IoU > level, as Time-R1's evaluation does, and not IoU >= level.
    """
    iou = best_iou(span, truths)
    return AnswerScores(
        iou=iou,
        hits=tuple(iou > level if strict else iou >= level for level in IOU_LEVELS),
        parsed=span is not None,
        timestamped=text is not None and reasoning_has_timestamp(text),
        formatted=text is not None and has_format(text),
    )
