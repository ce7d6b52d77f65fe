"""Temporal grounding: when does this happen, once?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taro.prompts import format_spans, parse_answer
from taro.spans import best_iou
from taro.tasks.task import Answer, Correspondence, Task


@dataclass(frozen=True)
class Grounding(Task):
    """One span is asked for; the last range of the answer is it. Several true spans are alternatives: the nearest counts."""

    name: ClassVar[str] = "grounding"
    correspondence: ClassVar[Correspondence] = "one_to_one"
    single: ClassVar[bool] = True

    def read(self, text: str) -> Answer:
        span = parse_answer(text)
        return Answer(None if span is None else (span,))

    def write(self, answer: Answer) -> str:
        """One span: the last."""
        return format_spans(answer.spans[-1:])

    def iou(self, answer: Answer, truth: Answer) -> float:
        return best_iou(answer.spans[-1], truth.spans) if answer.spans else 0.0
