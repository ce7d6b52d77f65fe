"""A model's answer to one sample, as evaluation makes it, writes it down and reads it back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from taro.data.samples import Sample
from taro.errors import TaroError
from taro.jsonl import ResumeError, list_repeated, read_config, read_folder
from taro.messages import LINES_SHOWN, first_lines, list_lines
from taro.prompts import parse_answer
from taro.rows import Number, OptionalString, Pair, RowError, String, Whole, read_objects
from taro.tasks import DEFAULT, TASKS, find_task
from taro.tasks import Answer as TaskAnswer

MISSING_VIDEO = "missing_video"
UNREADABLE_VIDEO = "unreadable_video"
REFUSED_PROMPT = "refused_prompt"
CUT_COMPLETION = "cut_completion"
NO_ANSWER = "no_answer"

FAILURES = {
    MISSING_VIDEO: "there is no such file",
    UNREADABLE_VIDEO: "the video can't be decoded",
    REFUSED_PROMPT: "the prompt can't be built, or is too long",
    CUT_COMPLETION: "the completion reached max_tokens before it gave an answer",
    NO_ANSWER: "the completion ended without an answer that can be read",
}
"""Why a sample has no answer. With the first three the model was not asked."""


Answer = Annotated[Pair | None, Field(description="null, or [start, end], two finite numbers (seconds)")]
Iou = Annotated[Number, Field(ge=0, le=1, description="a number from 0 to 1")]


class EvaluationError(TaroError):
    """What was asked for can't be evaluated."""


@dataclass(frozen=True)
class Prediction:
    """One sample and what the model said. A failed one counts, and scores 0.

    Attributes:
        id, query, spans: the sample's; spans in seconds.
        completion: the model's text; None where it was not asked.
        answer: the span in it, of several the last, (start, end) in seconds, as it was written; None where there is none.
        iou: of the answer with the true span that fits it best, or as the sample's task has it.
        failure: one of FAILURES, or None.
        reason: what went wrong, in words.
        seconds: of generation, shared equally with the samples that were in the engine at the same time.
        task: the sample's.
        right_choice: the letter of the sample's right choice, of tasks that have some.
        first_completion: of an answer in two passes (`taro.evaluation.zoom`), what the model said of the whole video.
        part: of the same, what the second pass looked at, (start, end) in seconds.
        tokens: that the model has made for it; 0 in files of before they were counted.
    """

    id: String
    query: String
    spans: Annotated[tuple[Pair, ...], Field(description="[[start, end], ...] (seconds)")]
    completion: OptionalString = None
    answer: Answer = None
    iou: Iou = 0.0
    failure: OptionalString = None
    reason: OptionalString = None
    seconds: Annotated[Number, Field(description="a number (seconds)")] = 0.0
    task: Annotated[Literal[tuple(TASKS)], Field(description=f"one of {', '.join(TASKS)}")] = DEFAULT
    right_choice: OptionalString = None
    first_completion: OptionalString = None
    part: Answer = None
    tokens: Annotated[Whole, Field(ge=0, description="a whole number, at least 0")] = 0

    @classmethod
    def answered(cls, sample: Sample, completion: str, finished: bool, seconds: float, tokens: int = 0) -> Prediction:
        """From a completion of so many tokens; `finished` False says that it was cut at max_tokens."""
        task, span = find_task(sample.task), parse_answer(completion)
        answer, truth = task.read(completion), task.truth(sample)
        failure = reason = None
        if answer.spans is None:
            failure = NO_ANSWER if finished else CUT_COMPLETION
            reason = f"{FAILURES[failure]}; it ends in {completion[-60:]!r}"
        result = failure, reason, seconds, task.name, truth.choice
        asked = sample.id, sample.query, sample.spans
        return cls(*asked, completion, span, task.iou(answer, truth), *result, tokens=tokens)

    @classmethod
    def failed(cls, sample: Sample, failure: str, reason: str) -> Prediction:
        """Without a completion."""
        task = find_task(sample.task)
        about = {"task": task.name, "right_choice": task.truth(sample).choice}
        return cls(sample.id, sample.query, sample.spans, failure=failure, reason=reason, **about)

    @property
    def readable(self) -> bool:
        """Whether there is an answer that can be read, if only that the event doesn't occur."""
        return self.completion is not None and self.failure is None

    @property
    def reading(self) -> TaskAnswer:
        """The answer, as the task reads it."""
        return TaskAnswer(None) if self.completion is None else find_task(self.task).read(self.completion)

    @property
    def scores(self) -> dict[str, float]:
        """What it adds to the sums of its task's own metrics."""
        return find_task(self.task).scores(self.reading, TaskAnswer(self.spans, self.right_choice))

    def to_row(self) -> dict[str, Any]:
        """As it is written: without the fields of other tasks and of second passes where it has none of them."""
        left_out = {} if self.part is not None else _OF_ZOOM
        if self.task == DEFAULT:
            left_out = left_out | _OF_TASKS
        return {name: value for name, value in asdict(self).items() if name not in left_out}


_OF_TASKS = {"task": DEFAULT, "right_choice": None}
_OF_ZOOM = {"first_completion": None, "part": None}


def read_predictions(rows: Mapping[str, Any]) -> dict[str, Prediction]:
    """Of rows that `to_row` has made.

    Raises:
        RowError: rows that can't be read; all are named.
    """
    whole = {id: _OF_TASKS | _OF_ZOOM | {"tokens": 0} | row if isinstance(row, Mapping) else row for id, row in rows.items()}
    return read_objects(Prediction, whole, "prediction", complete=True)


def count_failures(predictions: Collection[Prediction]) -> dict[str, int]:
    """How many failed in which way, zeros included."""
    return {failure: sum(prediction.failure == failure for prediction in predictions) for failure in FAILURES}


def load_predictions(folder: str | Path) -> list[Prediction]:
    """The predictions of a finished evaluation, in the order of its samples.

    Raises:
        EvaluationError: it is not finished, or the folder is none of an evaluation, or there are more lines than samples.
        RowError: rows that can't be read; all are named.
    """
    try:
        samples, rows, repeated = read_config(folder).get("samples"), read_folder(folder), list_repeated(folder)
    except ResumeError as error:
        raise EvaluationError(str(error)) from None
    asked = samples.get("count") if isinstance(samples, dict) else None
    if asked is None:
        raise EvaluationError(f"{folder}: its config.yaml is not an evaluation's; name a folder of eval.py --output")
    if len(rows) < asked:
        raise EvaluationError(f"{folder} has {len(rows)} of {asked} predictions: finish it with the eval.py that began it")
    if len(rows) > asked:
        remedy = "delete the lines that were added; or the eval.py that began it keeps those that it asked"
        raise EvaluationError(f"{folder} has {len(rows)} predictions of {asked} samples: {remedy}")
    try:
        predictions = list(read_predictions(rows).values())
    except RowError as error:
        remedy = "Delete these lines, and the eval.py that began it makes them again"
        raise RowError(f"{Path(folder, 'predictions.jsonl')}: {error}\n{remedy}") from None
    if repeated:
        head = f"{folder}: {len(repeated)} samples have more than one line in predictions.jsonl; delete those that are not the "
        raise EvaluationError(list_lines(f"{head}model's, or the eval.py that began it keeps the last ones:", repeated))
    return predictions


def list_failures(answered: Iterable[Any], shown: int = LINES_SHOWN) -> list[str]:
    """A line for each that failed, the first `shown` in full; all have an id, a failure and a reason, as predictions do."""
    return first_lines([f"{one.failure}: {one.id}: {one.reason}" for one in answered if one.failure], shown)
