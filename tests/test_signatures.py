import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from taro import signatures
from taro.ranges import PositiveInt
from taro.signatures import REQUIRED, read_settings


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


class Ranged:
    def __init__(self, count: PositiveInt = 3, most: PositiveInt | None = None):
        """Numbers with a range."""


class Base:
    def __init__(self, count: int | None = None, name="x"):
        """Counts.

        Args:
            count: how many.
        """


class Derived(Base):
    """Has its base's constructor."""


def read(name, monkeypatch, **settings):
    monkeypatch.setattr("taro.signatures.ROOTS", ("taro", "tests", "lightning"))
    return {setting.name: setting for setting in read_settings(f"tests.test_signatures:{name}", **settings)}


def test_of_nested_dataclasses(monkeypatch):
    monkeypatch.setattr("taro.signatures._tree", here)
    found = read("Outer", monkeypatch, prefix="x.", skip=["other.kind"])
    inner, other = ["x.inner.low", "x.inner.high", "x.inner.kind"], ["x.other.low", "x.other.high"]
    assert list(found) == ["x.folder", "x.inner", *inner, "x.other", *other, "x.options"]
    assert found["x.folder"].default == REQUIRED and found["x.folder"].help == "where."
    assert found["x.inner.high"].default == "2.0" and found["x.other.high"].default == "1.0"  # one default differs
    assert found["x.inner.low"].help == "a range." == found["x.inner.high"].help
    assert found["x.inner.kind"].choices == ("a", "b") and found["x.inner.kind"].help == "Which of two."
    assert [name for name, setting in found.items() if setting.is_open] == ["x.options"]


def test_a_constructor_of_a_base_class(monkeypatch):
    monkeypatch.setattr("taro.signatures._tree", here)
    found = read("Derived", monkeypatch)
    assert {name: setting.default for name, setting in found.items()} == {"count": "None", "name": "'x'"}
    assert found["count"].help == "how many."


def test_a_number_with_a_range_is_a_plain_setting(monkeypatch):
    tree = signatures._tree
    monkeypatch.setattr(signatures, "_tree", lambda module: (here if module.startswith("tests.") else tree)(module))
    found = read("Ranged", monkeypatch)
    assert {name: (setting.default, setting.is_open) for name, setting in found.items()} == {
        "count": ("3", False),
        "most": ("None", False),
    }


def here(module):
    """This file, in place of the module's."""
    return ast.parse(Path(__file__).read_text())
