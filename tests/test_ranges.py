import pickle
from dataclasses import dataclass, field
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from taro.ranges import (
    FiniteNonNegativeFloat,
    GroupSize,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Share,
    range_problems,
)


class Ranged:
    def __init__(
        self, size: GroupSize = 8, rate: PositiveFloat = 1.0, most: PositiveInt | None = None, part: Share = 0.5
    ) -> None:
        self.values = (size, rate, most, part)


@pytest.fixture
def parser():
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf")
    parser.add_class_arguments(Ranged, "own")
    parser.add_argument("--config", action="config")
    return parser


def test_values_are_plain_numbers(parser, tmp_path):
    """They go into checkpoints, which nothing but plain types may be in, and back into a config."""
    parsed = parser.parse_args(["--own.size=2", "--own.rate=.inf", "--own.most=3", "--own.part=1"])
    values = parser.instantiate(parsed).own.values
    assert values == (2, float("inf"), 3, 1.0) and [type(value) for value in values] == [int, float, int, float]
    assert b"taro" not in pickle.dumps(values)
    (tmp_path / "own.yaml").write_text(parser.dump(parsed))
    assert parser.parse_args([f"--config={tmp_path}/own.yaml"]).own == parsed.own


@pytest.mark.parametrize("value", ["1", "x", "true", "2.5", "nan", "null"])
def test_what_is_no_group_size(parser, value):
    with pytest.raises(Exception, match="must be a whole number, at least 2"):
        parser.parse_args([f"--own.size={value}"])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (PositiveFloat, "0"), (PositiveFloat, "nan"), (Share, "1.1"), (PositiveShare, 0), (FiniteNonNegativeFloat, ".inf"),
        (FiniteNonNegativeFloat, -1),
    ],
)  # fmt: skip
def test_limits(kind, value):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=kind)
    with pytest.raises(Exception, match=f"{value} must be a "):
        parser.parse_args([f"--x={value}"])


@dataclass
class Inner:
    part: Share = 0.5


@dataclass
class Outer:
    size: GroupSize = 8
    most: PositiveInt | None = None
    name: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


def test_settings_that_no_parser_has_read():
    assert not list(range_problems(Outer())) and not list(range_problems(Outer(2, 1, "b", Inner(1), Inner())))
    assert list(range_problems(Outer(None, 0, "c", Inner(2.0), Inner(-1.0)))) == [
        "size: None must be a whole number, at least 2",
        "most: 0 must be a whole number, at least 1",
        "name: 'c' must be 'a' or 'b'",
        "inner.part: 2.0 must be a share, from 0 to 1",
        "other.part: -1.0 must be a share, from 0 to 1",
    ]
