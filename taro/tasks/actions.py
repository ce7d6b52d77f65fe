"""Temporal action localisation: all occurrences of an action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taro.tasks.measures import f1_scores
from taro.tasks.task import Answer, Correspondence, Task


@dataclass(frozen=True)
class Actions(Task):
    """Many to many: each occurrence is a span of its own, and how many there are counts, too."""

    name: ClassVar[str] = "actions"
    instruction: ClassVar[str] = (
        "This is an action that takes place once or several times. Write a time range for each time, in order of time, as "
        "<answer>8.50s to 12.40s, 20.00s to 23.50s</answer>."
    )
    correspondence: ClassVar[Correspondence] = "many_to_many"
    opening: ClassVar[str | None] = "I need to find every time this action takes place: {query}."

    def scores(self, answer: Answer, truth: Answer) -> dict[str, float]:
        count = answer.spans is not None and len(answer.spans) == len(truth.spans)
        return {**f1_scores(answer.spans, truth.spans), "count_accuracy": float(count)}
