"""Dense grounding: when does each of these N events happen?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from taro.messages import describe_fault
from taro.rows import Text
from taro.spans import Span
from taro.tasks.measures import LEVELS, mean_paired_iou, paired_ious
from taro.tasks.task import Answer, Asked, Correspondence, Task


@dataclass(frozen=True)
class Queries:
    """The events that are looked for, as many as there are spans."""

    queries: Annotated[tuple[Text, ...], Field(min_length=1, description="a list of texts that are not empty, one or more")]


@dataclass(frozen=True)
class Dense(Task):
    """N queries, N spans in their order. A sample's `query` is a title; it is the numbered queries unless the row has one."""

    name: ClassVar[str] = "dense"
    instruction: ClassVar[str] = (
        "These are several events, each with its number. Write one time range for each, in the order of the numbers, as "
        "<answer>8.50s to 12.40s, 3.00s to 5.50s</answer>."
    )
    correspondence: ClassVar[Correspondence] = "one_to_one"
    opening: ClassVar[str | None] = "I need to find the moment of each of these events: {query}."
    keys: ClassVar[type | None] = Queries
    ordered: ClassVar[bool] = True

    def complete(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        queries = row.get("queries")
        if "query" in row or not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
            return row
        return {**row, "query": number_queries(queries)}

    def key_faults(self, values: Mapping[str, Any], spans: Sequence[Span] | None) -> Iterator[str]:
        queries = values["queries"]
        if spans and len(spans) != len(queries):
            yield describe_fault("queries", list(queries), f"one for each of the {len(spans)} spans, in their order")

    def subject(self, sample: Asked) -> str:
        return number_queries(sample.extra["queries"])

    def asked(self, sample: Asked) -> Mapping[str, str]:
        return {f"queries[{i}]": query for i, query in enumerate(sample.extra["queries"])}

    def iou(self, answer: Answer, truth: Answer) -> float:
        return 0.0 if answer.spans is None else mean_paired_iou(answer.spans, truth.spans)

    def scores(self, answer: Answer, truth: Answer) -> dict[str, float]:
        """Of the queries: what the answer has more counts for nothing here, as a query has one span."""
        ious = paired_ious((answer.spans or ())[: len(truth.spans)], truth.spans)
        reached = {f"R@{level}": sum(iou >= level for iou in ious) / max(1, len(ious)) for level in LEVELS}
        return {**reached, "count_accuracy": float(len(answer.spans or ()) == len(truth.spans) > 0)}


def number_queries(queries: Sequence[str]) -> str:
    """`1. a dog runs; 2. a man sits`."""
    return "; ".join(f"{number}. {query.strip().rstrip('. ')}" for number, query in enumerate(queries, start=1))
