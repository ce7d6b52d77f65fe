"""How released codes read a completion, traps and all; for the form `released` of several methods."""

import math
import re

from taro.spans import Span

_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_PAIR = re.compile(r"(?<!\d)(\d+(?:\.\d*)?) (?:to|and) (\d+(?:\.\d*)?)", re.IGNORECASE)  # read in linear time


def loose_format(text: str) -> float:
    """1.0 for a think block and an answer block, 0.0 else. Tags may be repeated inside (Time-R1, VideoChat-R1)."""
    return float(_FORMAT.fullmatch(text.strip()) is not None)


def bare_span(text: str) -> Span | None:
    """The last `number to number` of the last answer block: one space on each side, no unit (Time-R1, VideoChat-R1)."""
    pairs = _PAIR.findall((_ANSWER.findall(text) or [""])[-1])
    return (float(pairs[-1][0]), float(pairs[-1][1])) if pairs else None


def hull_iou(span: Span | None, truth: Span) -> float:
    """Intersection over hull; 0 where the hull has no length."""
    if span is None or not all(map(math.isfinite, span)):
        return 0.0
    hull = max(span[1], truth[1]) - min(span[0], truth[0])
    return max(0.0, min(span[1], truth[1]) - max(span[0], truth[0])) / hull if hull > 0 else 0.0
