"""Grounded question answering: which choice is right, and which parts of the video show it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Annotated, Any, ClassVar

from pydantic import Field

from taro.messages import describe_fault
from taro.prompts import answer_text, choice
from taro.rows import Text
from taro.spans import Span, overlap_length, total_length
from taro.tasks.task import Answer, Asked, Task

MOST = len(ascii_uppercase)
ENOUGH = 0.5  # of the answer's seconds that are evidence (NExT-GQA's IoP)


@dataclass(frozen=True)
class Choices:
    """The choices, and the letter of the right one."""

    choices: Annotated[tuple[Text, ...], Field(min_length=2, max_length=MOST, description=f"a list of 2 to {MOST} texts")]
    answer: Text


@dataclass(frozen=True)
class GroundedQA(Task):
    """A letter and the spans of the evidence, of which their union counts."""

    name: ClassVar[str] = "grounded_qa"
    instruction: ClassVar[str] = (
        "This is a question with choices. Write the letter of the right choice and then the time ranges that show it, as "
        "<answer>B, 8.50s to 12.40s, 20.00s to 23.50s</answer>."
    )
    opening: ClassVar[str | None] = "I need to answer a question and find the moments that show the answer: {query}."
    keys: ClassVar[type | None] = Choices
    has_choices: ClassVar[bool] = True

    def key_faults(self, values: Mapping[str, Any], spans: Sequence[Span] | None) -> Iterator[str]:
        letters = ascii_uppercase[: len(values["choices"])]
        if len(values["answer"]) != 1 or values["answer"] not in letters:
            yield describe_fault("answer", values["answer"], f"the letter of a choice, {letters[0]} to {letters[-1]}")

    def subject(self, sample: Asked) -> str:
        choices = zip(ascii_uppercase, sample.extra["choices"], strict=False)
        listed = "; ".join(f"{letter}. {text.strip().rstrip('. ')}" for letter, text in choices)
        return f"{sample.query.strip()} {listed}"

    def asked(self, sample: Asked) -> Mapping[str, str]:
        return {**super().asked(sample), **{f"choices[{i}]": text for i, text in enumerate(sample.extra["choices"])}}

    def read(self, text: str) -> Answer:
        return Answer(super().read(text).spans, choice(answer_text(text) or ""))

    def write(self, answer: Answer) -> str:
        return f"{answer.choice}, {super().write(answer)}"

    def truth(self, sample: Asked) -> Answer:
        return Answer(tuple(sample.spans), sample.extra.get("answer"))

    def scores(self, answer: Answer, truth: Answer) -> dict[str, float]:
        """`IoP`, as NExT-GQA has it: the evidence in the answer's seconds, as a share of them."""
        right = answer.choice is not None and answer.choice == truth.choice
        found = total_length(answer.spans or ())
        iop = overlap_length(answer.spans or (), truth.spans) / found if found else 0.0
        return {"accuracy": float(right), "IoP": iop, "accuracy_with_evidence": float(right and iop >= ENOUGH)}
