"""VITAL (arXiv 2508.04416): scaled IoU, the format of turns with tools, and a bonus for calls. Its weights of difficulty are an
advantage (`taro.rl.advantages.dgrpo_weights`)."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from taro.rl.rewards.completion import Completion, Form, Method
from taro.spans import Span

EPS = 1e-4  # seconds, of the released IoU
TOOL_BONUS, MOST_PAID = 0.5, 2  # a call, calls
_TAG = re.compile(r"<(\w+)>")
_ANY_TAG = re.compile(r"<([^<>]*)>")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")
_SENTENCE_END = re.compile(r"[!?\n]")


class _Block(NamedTuple):
    kind: str
    inside: str
    start: int  # of its tags, in characters
    end: int


def _blocks(text: str, tag: re.Pattern) -> Iterator[_Block]:
    """From each opening tag that is closed to where it is closed first; what lies inside is none."""
    position = 0
    while opening := tag.search(text, position):
        closing = f"</{opening[1]}>"
        inside = text.find(closing, opening.end())
        position = opening.start() + 1
        if inside >= 0:
            position = inside + len(closing)
            yield _Block(opening[1], text[opening.end() : inside], opening.start(), position)


def scaled_iou(iou: float, low: float = 0.2, high: float = 0.8) -> float:
    """(IoU - low) / (high - low), cut to [0, 1]. Raises ValueError unless `low < high`."""
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    return min(1.0, max(0.0, (iou - low) / (high - low)))


def turns_have_format(text: str, *, form: Form = "published") -> bool:
    """Whether a text is think, tool_call and answer blocks and white space around them: the first is a think block, the last
    an answer, and no two in a row are of one kind.

    released: what stands before the first block and after the last is not looked at, unless it is a block of another tag.
    """
    blocks = list(_blocks(text, _TAG if form == "published" else _ANY_TAG))
    kinds = [block.kind for block in blocks]
    ends = [0, *(end for block in blocks for end in (block.start, block.end)), len(text)]
    between = [text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]
    if form == "released":
        between = between[1:-1]
    return (
        bool(kinds)
        and (kinds[0], kinds[-1]) == ("think", "answer")
        and set(kinds) <= {"think", "tool_call", "answer"}
        and all(a != b for a, b in pairwise(kinds))
        and not "".join(between).strip()
    )


def count_calls(text: str) -> int:
    """`<tool_call>` blocks that hold a JSON object."""
    return sum(_is_object(block.inside) for block in _blocks(text, _TAG) if block.kind == "tool_call")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True)
class Vital(Method):
    """Scaled IoU + format + 0.5 for each of at most two tool calls, which need the format.

    released: the last two numbers in order of any sentence of the whole text are the answer, those of a tool call or of the
    reasoning as well, and `2.9s` is 2; text before and after the turns doesn't break the format; calls are paid without the
    format, too. Which calls the tool carried out is not known here: those that could be read count.

    Args:
        low, high: the IoU that is worth 0, and 1.
    """

    low: float = 0.2
    high: float = 0.8
    form: Form = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        scaled_iou(0.0, self.low, self.high)

    def __call__(self, completion: Completion) -> dict[str, float]:
        whole = turns_have_format(completion.text, form=self.form)
        calls = TOOL_BONUS * min(MOST_PAID, count_calls(completion.text))
        iou = completion.iou if self.form == "published" else _released_iou(completion)
        paid = whole or self.form == "released"
        return {"iou": scaled_iou(iou, self.low, self.high), "format": float(whole), "tool": calls if paid else 0.0}


def _released_iou(completion: Completion) -> float:
    truth, span = completion.sample.spans, last_numbers(completion.text)
    if span is None or not truth:
        return 0.0
    overlap = max(0.0, min(span[1], truth[0][1]) - max(span[0], truth[0][0]))
    return overlap / (span[1] - span[0] + truth[0][1] - truth[0][0] - overlap + 3 * EPS)


def last_numbers(text: str) -> Span | None:
    """The last (first, second) of the numbers of a line or sentence, taken two by two, with first <= second."""
    return next((pair for pair in reversed(list(_pairs(text))) if pair[0] <= pair[1]), None)


def _pairs(text: str) -> Iterator[Span]:
    for sentence in _SENTENCE_END.split(text):
        numbers = [float(number) for number in _NUMBER.findall(sentence)]
        yield from (pair for pair in zip(numbers[::2], numbers[1::2], strict=False) if all(map(math.isfinite, pair)))
