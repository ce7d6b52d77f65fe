"""OneThinker (arXiv 2512.03043): the IoU of a JSON answer, `{"time": [start, end]}`, and a part for its structure."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from taro.prompts import answer_text, spans_in
from taro.rl.rewards.completion import Completion, Form, Method
from taro.rl.rewards.parts import has_format
from taro.rl.rewards.released import hull_iou, loose_format
from taro.rl.rewards.taro import best_truth
from taro.spans import Span, temporal_iou

_FIRST_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_AROUND_TAG_SIGNS = re.compile(r"(?:(?<!\s)\s+)?([<>/])\s*")  # read in linear time


@dataclass(frozen=True)
class OneThinker(Method):
    """IoU + format + 0.5 for the structure, which needs the format.

    released: 0.9 IoU + 0.1 format + 0.5. White space around `<`, `>` and `/` is left out first, so that `< think >` is a tag.
    The first answer block is read, or all of the text where there is none; numbers may be strings, true or false,
    NaN or infinite.
    """

    form: Form = "published"
    answer: Literal["json", "text"] = "json"
    """Whether answers are JSON, or as everything else here reads them (`2.0s to 6.0s`), which is the project's own."""

    def __call__(self, completion: Completion) -> dict[str, float]:
        if self.form == "released":
            text = _AROUND_TAG_SIGNS.sub(r"\1", completion.text)
            whole, found = loose_format(text), _FIRST_ANSWER.search(text)
            span = self._read(found[1] if found else text)
            truth = completion.sample.spans
            iou = hull_iou(span, truth[0]) if truth else 0.0
            parts = {"iou": 0.9 * iou, "format": 0.1 * whole}
        else:
            whole, span = has_format(completion), self._read(answer_text(completion.text) or "")
            iou = temporal_iou(span, best_truth(span, completion.truth)) if completion.truth else 0.0
            parts = {"iou": iou, "format": whole}
        return {**parts, "structure": 0.5 * float(whole == 1 and span is not None)}

    def _read(self, answer: str) -> Span | None:
        if self.answer == "json":
            return read_time(answer, loose=self.form == "released")
        return next(reversed(spans_in(answer)), None)


def read_time(text: str, *, loose: bool = False) -> Span | None:
    """The span of `{"time": [start, end]}`; `loose`: each may be whatever Python makes a float of (`"2"`, `true`, `NaN`)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    times = value.get("time") if isinstance(value, dict) else None
    if not isinstance(times, list) or len(times) != 2:
        return None
    start, end = (_number(time, loose) for time in times)
    return None if start is None or end is None else (start, end)


def _number(value: Any, loose: bool) -> float | None:
    if not loose and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if loose or math.isfinite(number) else None
