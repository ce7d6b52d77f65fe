"""What a kind of question is: what is asked, how an answer is read, what is true, and how the two are compared.

A task is a class in a file of its own. It reads a sample through the few fields of `Asked`. Times are float seconds in the
clip's own clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from taro.messages import describe_fault
from taro.prompts import OPENING, TimedText, constructed_path, format_spans, full_path, parse_spans
from taro.rows import read_fields
from taro.spans import Span, union_iou

Correspondence = Literal["one_to_one", "many_to_one", "many_to_many"]
ONE_OR_MORE = "[[start, end], ...], one or more (seconds)"


class Asked(Protocol):
    """What a task reads of a sample (`taro.data.rows.Sample`)."""

    query: str
    spans: Sequence[Span]
    extra: Mapping[str, Any]
    captions: Sequence[TimedText]


@dataclass(frozen=True)
class Answer:
    """What a completion answers, or what is true.

    Attributes:
        spans: in the order in which they are written; () where the event doesn't occur, None where nothing can be read.
        choice: the letter of a choice, of tasks that have some.
    """

    spans: tuple[Span, ...] | None
    choice: str | None = None


NO_ANSWER = Answer(None)


@dataclass(frozen=True)
class Task:
    """A kind of question. What is here fits one that is answered with any number of spans, of which their union counts."""

    name: ClassVar[str]
    instruction: ClassVar[str] = ""
    """What is asked for below the prompt's template, which asks for one span."""
    correspondence: ClassVar[Correspondence] = "many_to_one"
    """How predicted and true spans belong together (TempR1, arXiv 2512.03963)."""
    opening: ClassVar[str | None] = OPENING
    """First line of a constructed path, with `{query}`; None: paths of captions lead nowhere, and all is explored freely."""
    keys: ClassVar[type | None] = None
    """A dataclass of the keys of a sample's row that only this task has; they are the sample's `extra`."""
    single: ClassVar[bool] = False
    """Whether one span is asked for, and several true ones are alternatives."""
    ordered: ClassVar[bool] = False
    """Whether each span belongs to a part of the question, so that none can be left out."""
    has_choices: ClassVar[bool] = False
    """Whether one of several choices is asked for, too."""
    allows_none: ClassVar[bool] = False
    """Whether `spans: []`, the event doesn't occur, is a truth."""

    def complete(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row as JSON gave it, with what follows from its other keys."""
        return row

    def faults(
        self, row: Mapping[str, Any], spans: Sequence[Span] | None, names: Mapping[str, str] | None = None
    ) -> Iterator[str]:
        """What a row lacks for this task: field, value and what is allowed.

        Args:
            row: as JSON gave it.
            spans: the true ones; None where they can't be read.
            names: what messages call a field, where that is not its own name.
        """
        if spans is not None and not spans and not self.allows_none:
            yield describe_fault((names or {}).get("spans", "spans"), [], ONE_OR_MORE)
        if self.keys is not None:
            values, problems = read_fields(self.keys, row)
            yield from problems.values()
            if not problems:
                yield from self.key_faults(values, spans)

    def key_faults(self, values: Mapping[str, Any], spans: Sequence[Span] | None) -> Iterator[str]:
        """What is wrong with the task's own keys, each of which can be read."""
        return iter(())

    def subject(self, sample: Asked) -> str:
        """What takes the place of `{query}` in the prompt: all text of the sample."""
        return sample.query

    def asked(self, sample: Asked) -> Mapping[str, str]:
        """The texts that `subject` is made of, by the name of their field."""
        return {"query": sample.query}

    def read(self, text: str) -> Answer:
        """The answer of a completion."""
        spans = parse_spans(text)
        return Answer(None if spans is None else tuple(spans))

    def write(self, answer: Answer) -> str:
        """The text between the answer's tags that `read` reads so, with times to 0.1 s, of an answer that the task can have."""
        return format_spans(answer.spans)

    def truth(self, sample: Asked) -> Answer:
        """The right answer."""
        return Answer(tuple(sample.spans))

    def iou(self, answer: Answer, truth: Answer) -> float:
        """How well the spans agree, in [0, 1]; 0 for an answer that can't be read."""
        return 0.0 if answer.spans is None else union_iou(answer.spans, truth.spans)

    def scores(self, answer: Answer, truth: Answer) -> dict[str, float]:
        """What one answer adds to the sums of the task's own metrics; the names are those of `NO_ANSWER`'s, too."""
        return {}

    def metrics(self, sums: Mapping[str, float], samples: int) -> dict[str, float]:
        """The task's own metrics, in [0, 1], of the sums of `scores` over so many samples; nan where there is nothing."""
        return {name: value / samples for name, value in sums.items()}

    def path(self, sample: Asked, captions: Sequence[TimedText], rng: random.Random) -> str | None:
        """The opening of a constructed completion, from a random part of the captions; None where there can be none."""
        if self.opening is None or not captions:
            return None
        return constructed_path(self.subject(sample), captions, rng, self.opening)

    def full_path(self, sample: Asked, captions: Sequence[TimedText], answer: Answer) -> str:
        """A whole completion, as a supervised target. Raises ValueError without captions."""
        return full_path(self.subject(sample), captions, self.write(answer), self.opening or OPENING)

    def boundaries(self, sample: Asked) -> tuple[float, ...]:
        """Seconds around which the temporal gap's shuffle moves frames; () where no gap is measured."""
        return tuple(time for span in sample.spans for time in span)
