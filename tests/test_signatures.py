import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from taro import signatures
from taro.signatures import NESTED, REQUIRED, read_settings


@dataclass(frozen=True)
class Inner:
    """A range of a kind.

    Args:
        low, high: a range.
    """

    low: float = 0.5
    high: float = 1.0
    kind: Literal["a", "b"] = "a"
    """Which of two."""


@dataclass(frozen=True)
class Outer:
    """A folder and ranges.

    Args:
        folder: where.
        options: any mapping.
    """

    folder: str
    inner: Inner = field(default_factory=lambda: Inner(high=2.0))
    other: Inner | None = None
    options: dict = field(default_factory=dict)


class Base:
    def __init__(self, count: int | None = None, name="x"):
        """Counts.

        Args:
            count: how many.
        """


class Derived(Base):
    """Has its base's constructor."""


@pytest.fixture
def read(monkeypatch):
    """The settings of a class of this file, by name."""
    tree = signatures._tree
    here = ast.parse(Path(__file__).read_text())
    monkeypatch.setattr(signatures, "_tree", lambda module: here if module == "here" else tree(module))
    return lambda name, prefix="": {setting.name: setting for setting in read_settings(f"here:{name}", prefix)}


def test_of_nested_dataclasses(read):
    found = read("Outer", prefix="x.")
    inner = ["x.inner", "x.inner.low", "x.inner.high", "x.inner.kind"]
    assert list(found) == ["x.folder", *inner, *(name.replace("inner", "other") for name in inner), "x.options"]
    assert found["x.folder"].default == REQUIRED and found["x.folder"].help == "where."
    assert found["x.inner"].default == NESTED and found["x.other"].default is None
    assert found["x.inner.high"].default == 2.0 and found["x.other.high"].default == 1.0  # one default differs
    assert found["x.inner.low"].help == "a range." == found["x.inner.high"].help
    assert found["x.inner.kind"].default == "a" and found["x.inner.kind"].help == "Which of two. [a, b]"


def test_a_constructor_of_a_base_class(read):
    found = read("Derived")
    assert {name: setting.default for name, setting in found.items()} == {"count": None, "name": "x"}
    assert found["count"].help == "how many."
