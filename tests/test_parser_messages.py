from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentParser

from taro.parser_messages import one_line
from taro.ranges import PositiveInt


@dataclass(frozen=True)
class Inner:
    rank: PositiveInt = 1
    threshold: Literal["mean"] | float = "mean"
    average: Literal["tokens", "completions"] = "tokens"
    bonus: float = 1.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needed:
    folder: str
    size: float = 1.0


@dataclass(frozen=True)
class Outer:
    inner: Inner | None = None
    always: Inner = field(default_factory=Inner)
    weights: dict[str, float] | None = None
    rewards: dict[str, float | dict[str, Any]] = field(default_factory=dict)
    by_task: dict[str, dict[str, float | dict[str, Any]]] | None = None
    compiled: bool = False
    needed: Needed | None = None


def said(*arguments):
    """What is made of the parser's own message."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Outer, "model")
    with pytest.raises(Exception) as error:  # of whatever class jsonargparse has
        parser.parse_args(arguments)
    return one_line(str(error.value))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.compiled=maybe", "model.compiled: maybe must be true or false"),
        ("--model.always.average=all", "model.always.average: all must be tokens or completions"),
        ("--model.always.threshold=high", "model.always.threshold: high must be mean or a number"),
        ("--model.always={rank: 0}", "model.always.rank = 0: must be a whole number, at least 1"),
        ("--model.inner.threshold=high", "model.inner.threshold: high must be mean or a number"),
        ("--model.inner.rank=a", "model.inner.rank = a: must be a whole number, at least 1"),
        ("--model.inner.average=all", "model.inner.average: all must be tokens or completions"),
        ("--model.inner={bonus: high}", "model.inner.bonus: high must be a number"),
        ("--model.inner={rank: 4, targets: 5}", "model.inner.targets: 5 must be a list"),
        ("--model.inner=4", "model.inner: 4 must be settings or null"),
        ("--model.needed.size=5", "model.needed: test_parser_messages.Needed: the following arguments are required: folder"),
        ("--model.weights={dense: a}", "model.weights: a must be a number"),
        ("--model.weights=x", "model.weights: x must be a mapping, {name: value} or null"),
        ("--model.rewards=5", "model.rewards: 5 must be a mapping, {name: value}"),
        ("--model.rewards={iou: high}", "model.rewards: high must be a number or a mapping, {name: value}"),
        ("--model.by_task={dense: 1}", "model.by_task: 1 must be a mapping, {name: value}"),
        ("--model.by_task={dense: {a: b}}", "model.by_task: b must be a number or a mapping, {name: value}"),
    ],
)
def test_a_value_that_does_not_fit(argument, message):
    assert said(argument) == message


def test_any_other_message_without_its_line_breaks():
    assert one_line('Parser key "a.b":\n  Expected\n   more <class \'int\'>') == "a.b: Expected more int"
