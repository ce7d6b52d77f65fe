"""Multiple choice: which of these is right, with no moment asked for?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taro.prompts import answer_text, choice
from taro.tasks.grounded_qa import GroundedQA
from taro.tasks.task import Answer


@dataclass(frozen=True)
class MultipleChoice(GroundedQA):
    """A letter alone. There are no spans; what stands for their IoU is 1 for the right letter and 0 for any other answer."""

    name: ClassVar[str] = "multiple_choice"
    instruction: ClassVar[str] = (
        "This is a question with choices, and no time is asked for. Write the letter of the right choice alone, as "
        "<answer>B</answer>."
    )
    opening: ClassVar[str | None] = "I need to answer a question: {query}."
    allows_none: ClassVar[bool] = True

    def read(self, text: str) -> Answer:
        letter = choice(answer_text(text) or "")
        return Answer(None if letter is None else (), letter)

    def write(self, answer: Answer) -> str:
        return f"{answer.choice}"

    def iou(self, answer: Answer, truth: Answer) -> float:
        return float(answer.choice is not None and answer.choice == truth.choice)

    def scores(self, answer: Answer, truth: Answer) -> dict[str, float]:
        return {"accuracy": self.iou(answer, truth)}
