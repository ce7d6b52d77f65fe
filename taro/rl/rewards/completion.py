"""What a reward looks at: a completion and the sample that it answers. Times are seconds in the clip's own clock."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from taro.data.rows import Sample
from taro.prompts import answer_text, choice, parse_answer, parse_spans
from taro.rl.rewards.taro import best_truth
from taro.spans import Span
from taro.tasks import Task, find_task

_SMALL = re.compile(r"\W*([a-z])\W*")


@dataclass(frozen=True)
class Completion:
    """What the policy wrote to one request.

    Args:
        text: its own part, to be read like a whole completion.
        sample: that it answers.
        token_ids: of the whole completion.
        temporal_gap: nats per token; nan where it has none, None where it was not measured.
        constructed: starts with a path that is not the policy's.
        shuffled: answers the video with its frames in a random order, and is compared with, not trained on.
    """

    text: str
    sample: Sample
    token_ids: tuple[int, ...] = ()
    temporal_gap: float | None = None
    constructed: bool = False
    shuffled: bool = False

    @cached_property
    def spans(self) -> tuple[Span, ...] | None:
        """All that it answers, as written; () where it says that the event doesn't occur, None where it can't be read."""
        spans = parse_spans(self.text)
        return None if spans is None else tuple(spans)

    @cached_property
    def span(self) -> Span | None:
        """The one that it answers where one is asked for: the last; None where there is none."""
        return parse_answer(self.text)

    @cached_property
    def truth(self) -> tuple[Span, ...]:
        """The true spans, cut to the video; () where the event doesn't occur."""
        return tuple((max(0.0, start), min(self.sample.duration, end)) for start, end in self.sample.spans)

    @cached_property
    def nearest(self) -> Span | None:
        """The truth that `span` is compared with."""
        return best_truth(self.span, self.truth) if self.truth else None

    @cached_property
    def iou(self) -> float:
        """How well the answer fits, as the sample's task compares them; in grounding that of `span` with the nearest truth."""
        return self.kind.iou(self.kind.read(self.text), replace(self.kind.truth(self.sample), spans=self.truth))

    @cached_property
    def answer(self) -> str | None:
        """The text of the last answer block."""
        return answer_text(self.text)

    @cached_property
    def said(self) -> str:
        """The text of the last answer block; without one, what stands in no think block."""
        return self.text.split("</think>")[-1].split("<think>")[0] if self.answer is None else self.answer

    @property
    def duration(self) -> float:
        """Of the video."""
        return self.sample.duration

    @property
    def task(self) -> str:
        return self.sample.task

    @property
    def kind(self) -> Task:
        """The task itself. Raises TaskError where there is no such task."""
        return find_task(self.sample.task)

    def column(self, name: str) -> Any:
        """A key of the sample's row that only some tasks have. Raises ValueError where it is missing."""
        if name not in self.sample.extra:
            raise ValueError(f"the sample needs the key {name!r} for this reward")
        return self.sample.extra[name]

    @property
    def right_choice(self) -> str:
        """The letter of the sample's `answer`. Raises ValueError where the sample has none."""
        right = str(self.column("answer"))
        small = _SMALL.fullmatch(right)
        letter = small[1].upper() if small else choice(right)
        if letter is None:
            raise ValueError(
                f"the sample's answer {right!r} names no choice: "
                "it must have a capital letter that stands alone, or be one letter"
            )
        return letter

    def chose_rightly(self, answer: str | None = None) -> float:
        """1.0 where the letter of an answer, that of the answer block unless given, is that of the sample's `answer`, else 0.0.
        Raises ValueError where the sample has none."""
        right = self.right_choice
        return float(choice((self.answer or "") if answer is None else answer) == right)


@dataclass(frozen=True)
class Method:
    """A published reward; its fields are its settings. Raises ValueError where one is not what its type says."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            value, kind = getattr(self, field.name), kinds[field.name]
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(f"{field.name} = {value!r}: allowed are {', '.join(map(repr, get_args(kind)))}")
            try:
                TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
            except ValidationError as error:
                raise ValueError(f"{field.name} = {value!r}: {error.errors()[0]['msg'].replace('Input', 'it', 1)}") from error


Form = Literal["published", "released"]
"""As the paper has it, or as the released code does where that differs."""
