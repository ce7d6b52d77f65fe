"""How TimeLens2's released code (arXiv 2607.17423) finds spans in a text, traps and all.

It takes the first list that can be read: all of the answer, what stands in its code fence, or one that opens with `[[`.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from taro.spans import Span

DEEPEST = 8  # lists, its own among them, that a span among others may stand in
_REASONED = re.compile(r"<(?:redacted_)?thinking>.*?</(?:redacted_)?thinking>\s*<answer>(.*?)</answer>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def released_spans(text: str) -> list[Span]:
    """All spans of the answer, each with its smaller end first; [] where none can be read, or one is empty or not finite.

    The answer is the first one after reasoning in `<thinking>`, the first of all where there is no such, or the whole text.
    """
    found = _REASONED.search(text) or _ANSWER.search(text)
    answer = (found[1] if found else text).strip()
    for candidate in _candidates(answer):
        if pairs := _pairs(_load(candidate)):
            spans = [(min(pair), max(pair)) for pair in pairs]
            return spans if all(-math.inf < start < end < math.inf for start, end in spans) else []
    return []


def _candidates(answer: str) -> Iterator[str]:
    yield answer
    if fence := _FENCE.search(answer):
        yield fence[1].strip()
    start = answer.find("[[")
    while start >= 0 and (end := _closing(answer, start)) is not None:
        yield answer[start:end]
        start = answer.find("[[", end)


def _closing(text: str, start: int) -> int | None:
    """Where the list ends that opens at `start`; None where it stays open."""
    depth = 0
    for bracket in re.compile(r"[\[\]]").finditer(text, start):
        depth += 1 if bracket[0] == "[" else -1
        if not depth:
            return bracket.end()
    return None


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _pairs(value: Any) -> list[Span]:
    """Of one pair, or of a list of them, in any number of lists around it. What is no pair in a list is left out."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or not value:
        return []
    if isinstance(value[0], list):
        return [pair for item in value if (pair := _unwrap(item)) is not None]
    # Of numbers true is one, and so is NaN; text is read where it comes first.
    if all(isinstance(number, (int, float)) for number in value[:2]):
        pair = tuple(map(_float, value[:2]))
    else:
        pair = None if isinstance(value[0], (int, float)) else _pair(value)
    return [] if pair is None or len(pair) < 2 else [pair]


def _unwrap(item: Any) -> Span | None:
    for _ in range(DEEPEST):
        if not isinstance(item, list) or len(item) != 1:
            break
        item = item[0]
    else:
        return None
    return _pair(item) if isinstance(item, list) else None


def _pair(value: list[Any]) -> Span | None:
    """The first two of a list, both numbers, or text of numbers; what follows is left out."""
    if len(value) < 2 or any(isinstance(number, bool) for number in value[:2]):
        return None
    start, end = (_float(number) for number in value[:2])
    return (start, end) if math.isfinite(start) and math.isfinite(end) else None


def _float(value: Any) -> float:
    """nan for what is no number."""
    if isinstance(value, str):
        value = value.strip() if _NUMBER.fullmatch(value.strip()) else None
    try:
        return math.nan if value is None else float(value)
    except (TypeError, OverflowError):
        return math.nan
