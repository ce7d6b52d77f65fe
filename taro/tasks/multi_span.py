"""Grounding of several spans or none: when does this happen, each time, if it does at all?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from taro.tasks.measures import f1_scores
from taro.tasks.task import Answer, Correspondence, Task


@dataclass(frozen=True)
class MultiSpan(Task):
    """All spans are asked for, `none` where the event doesn't occur, which is a truth: `spans: []`."""

    name: ClassVar[str] = "multi_span"
    instruction: ClassVar[str] = (
        "The event may take place several times, or not at all. Write every time range in which it does, in order of time, as "
        "<answer>8.50s to 12.40s, 20.00s to 23.50s</answer>, or write <answer>none</answer> if it does not take place."
    )
    correspondence: ClassVar[Correspondence] = "many_to_many"
    opening: ClassVar[str | None] = "I need to find every moment {query}, or see that there is none."
    allows_none: ClassVar[bool] = True

    def scores(self, answer: Answer, truth: Answer) -> dict[str, float]:
        refused, absent = answer.spans == (), not truth.spans
        return {
            "count_accuracy": float(answer.spans is not None and len(answer.spans) == len(truth.spans)),
            **f1_scores(answer.spans, truth.spans),
            "absent": float(absent),
            "refused": float(refused),
            "rightly_refused": float(refused and absent),
            "iou_where_present": 0.0 if absent else self.iou(answer, truth),
        }

    def metrics(self, sums: Mapping[str, float], samples: int) -> dict[str, float]:
        """Refusal has a precision and a recall. Its joint score is the harmonic mean of that recall and of the mean IoU where
        the event occurs: who always refuses, and who never does, gets 0."""
        sums = dict(sums)
        absent, refused, right, iou = map(sums.pop, ("absent", "refused", "rightly_refused", "iou_where_present"))
        recall, found = _ratio(right, absent), _ratio(iou, samples - absent)
        return {
            **super().metrics(sums, samples),
            "refusal_precision": _ratio(right, refused),
            "refusal_recall": recall,
            "refusal_joint": 0.0 if recall + found == 0 else 2 * recall * found / (recall + found),
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
