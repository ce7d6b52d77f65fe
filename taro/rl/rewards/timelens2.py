"""TimeLens2 (arXiv 2607.17423): how far the predicted seconds have to be moved to lie on the true ones.

Spans are (start, end) in seconds. No truth and no prediction agree: 1; where one side has no second: 0.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from taro.rl.rewards.completion import Completion, Form, Method
from taro.rl.rewards.timelens2_released import released_spans
from taro.spans import Span, merge_spans, span_length, total_length, union_iou

_LIST = re.compile(r"\[[\s\[\],.\d+-]*")  # to the end of its characters, beyond its last bracket: read in linear time


def wasserstein(predicted: Sequence[Span], truth: Sequence[Span], *, beta: float = 1.0) -> float:
    """exp(-beta W1 / |truth|), in [0, 1].

    The spans of each side are merged, and a mass of 1 lies evenly on them. W1 is the area between the two cumulative
    distributions, computed exactly, in seconds. It is divided by the seconds of the truth alone (one snapshot of the released
    code: by those of both), so that long predictions buy nothing. Raises ValueError unless `beta > 0`.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not predicted and not truth:
        return 1.0
    mine, true = merge_spans(predicted), merge_spans(truth)
    if not mine or not true:
        return 0.0
    times = sorted({time for span in mine + true for time in span})
    gaps = [_share_before(time, mine) - _share_before(time, true) for time in times]  # linear between the times
    w1 = sum((end - start) * _mean_size(*sides) for (start, end), sides in zip(pairwise(times), pairwise(gaps), strict=True))
    return math.exp(-beta * w1 / total_length(true))


def _share_before(time: float, disjoint: Sequence[Span]) -> float:
    return sum(max(0.0, min(time, end) - start) for start, end in disjoint) / sum(end - start for start, end in disjoint)


def _mean_size(left: float, right: float) -> float:
    """Mean of |x| where x goes from `left` to `right` in a line."""
    if left * right >= 0:
        return (abs(left) + abs(right)) / 2
    return (left**2 + right**2) / (2 * abs(left - right))


def unmerged_iou(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """As released: predictions are merged, the truth is not, so what two true spans share counts twice. Cut to [0, 1]."""
    if not predicted and not truth:
        return 1.0
    mine = merge_spans(predicted)
    overlap = sum(span_length((max(a[0], b[0]), min(a[1], b[1]))) for a in mine for b in truth)
    union = total_length(mine) + sum(end - start for start, end in truth) - overlap
    return min(1.0, max(0.0, overlap / (union + 1e-16)))


def parse_json_spans(text: str) -> list[Span] | None:
    """The last JSON list of [start, end] pairs in a text."""
    for found in reversed(list(_LIST.finditer(text))):
        try:
            spans = _read_pairs(json.loads(found[0][: found[0].rfind("]") + 1]))
        except (ValueError, OverflowError, RecursionError):
            continue
        if spans is not None:
            return spans
    return None


def _read_pairs(value: Any) -> list[Span] | None:
    if not isinstance(value, list) or not all(_is_pair(item) for item in value):
        return None
    return [(float(start), float(end)) for start, end in value]


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in value)
    )


@dataclass(frozen=True)
class TimeLens2(Method):
    """`wasserstein` + IoU of several spans - 1 for an answer that can't be read, `[[start, end], ...]` in seconds.

    Answers as `start to end` are read, too. Without an answer block all that stands in no think block is the answer.

    released: answers are read as in `taro.rl.rewards.timelens2_released`: the first block and its first list; `[start, end]`
    alone, numbers in quotes, and further lists around are read as well; reversed spans are turned round; one empty span, or an
    empty list, makes an answer unreadable. The truth is neither merged for the IoU nor cut to the video.

    Args:
        beta: of the transport.
    """

    beta: Annotated[float, Field(gt=0)] = 1.0
    form: Form = "published"

    def __call__(self, completion: Completion) -> dict[str, float]:
        if self.form == "released":
            spans, truth, iou = released_spans(completion.text) or None, completion.sample.spans, unmerged_iou
        else:
            spans, truth, iou = parse_json_spans(completion.said), completion.truth, union_iou
            if spans is None:
                spans = completion.spans
        if spans is None:
            return {"wasserstein": 0.0, "iou": 0.0, "parse": -1.0}
        return {"wasserstein": wasserstein(spans, truth, beta=self.beta), "iou": iou(spans, truth), "parse": 0.0}
