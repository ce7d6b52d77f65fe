"""What one answer adds to the metrics; their values are the means of this over all samples."""

from __future__ import annotations

from collections.abc import Sequence

from taro.prompts import has_format, reasoning_has_timestamp
from taro.spans import Span, best_iou

IOU_LEVELS = (0.3, 0.5, 0.7)
METRICS = ("mIoU", *(f"R1@{level}" for level in IOU_LEVELS), "parse_rate", "timestamp_rate", "format_rate")


def score_answer(span: Span | None, truths: Sequence[Span], text: str | None, strict: bool = False) -> tuple[float, ...]:
    """The scores of one answer, each in [0, 1], in the order of METRICS.

    The IoU is compared as it is, in float64, like the published scorers do: an IoU that is 0.7 on paper may be
    0.7 - 1e-16 when its ends are no binary fractions, and then misses the level.

    Args:
        span: the parsed answer, (start, end) in seconds; None where there is none.
        truths: the true spans, one or more; the best IoU counts.
        text: the completion, which may name a time in its reasoning and have the format; None where there is none.
        strict: R1 counts IoU > level, as Time-R1's evaluation does, and not IoU >= level.
    """
    return score_iou(best_iou(span, truths), span is not None, text, strict)


def score_iou(iou: float, readable: bool, text: str | None, strict: bool = False) -> tuple[float, ...]:
    """The same, of an answer whose IoU is known, as its task has it.

    Args:
        iou: of the answer.
        readable: whether there is one.
        text: the completion; None where there is none.
        strict: R1 counts IoU > level.
    """
    hits = (iou > level if strict else iou >= level for level in IOU_LEVELS)
    of_text = (False, False) if text is None else (reasoning_has_timestamp(text), has_format(text))
    return (iou, *map(float, (*hits, readable, *of_text)))
