"""Traces: whole completions to learn from, which a sample brings along in the key `traces` of its row."""

from __future__ import annotations

from collections.abc import Sequence

from taro.data.samples import Sample
from taro.errors import TaroError
from taro.messages import describe_fault, list_lines

TRACES = "traces"  # of a row


class TraceError(TaroError):
    """Samples without traces, or runs that none can be taken from."""


def traces_of(sample: Sample) -> tuple[str, ...]:
    return tuple(sample.extra[TRACES])


def check_traces(samples: Sequence[Sample], file: str) -> None:
    """Raises TraceError where one of the samples of a `file` has no traces to learn from; names all of them."""
    wrong = [f"{sample.id}: {fault}" for sample in samples if (fault := trace_fault(sample.extra.get(TRACES))) is not None]
    if wrong:
        head = f"data.train_file = {file}: {len(wrong)} of {len(samples)} samples have no traces for stage = sft:"
        raise TraceError(list_lines(head, wrong) + "\npython -m taro.prepare.traces RUN makes such a file of a run's rollouts.")


def trace_fault(traces: object) -> str | None:
    """What is wrong with the `traces` of a row; None for good ones."""
    if isinstance(traces, list) and traces and all(isinstance(one, str) and one.strip() for one in traces):
        return None
    return describe_fault(TRACES, traces, "a list of texts, one or more, none of them empty")
