"""Numbers with a range, as types of settings: a value outside of it is refused where it is parsed. The values themselves are
plain numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse.typing import register_type


def _range(name: str, base: type, said: str, least: float, *, included: bool = True, most: float = math.inf) -> type:
    """A type of that name. `said`: what a value must be, for the message."""
    kind = type(name, (base,), {})

    def fits(value: Any, kind: type = kind) -> bool:
        is_number = type(value) is base or (base is float and type(value) is int)
        return is_number and value <= most and (value >= least if included else value > least)

    def parse(value: Any) -> Any:
        text = value.removeprefix(".") if isinstance(value, str) else value  # YAML writes .inf
        try:
            number = base(text)
        except (TypeError, ValueError):
            number = None
        if isinstance(value, bool) or (base is int and number != value and not isinstance(value, str)) or not fits(number):
            raise ValueError(f"{value} must be {said}")
        return number

    kind.said, kind.fits = said, staticmethod(fits)
    register_type(kind, serializer=lambda value: value, deserializer=parse, type_check=fits)
    return kind


PositiveInt = _range("PositiveInt", int, "a whole number, at least 1", 1)
NonNegativeInt = _range("NonNegativeInt", int, "a whole number, at least 0", 0)
GroupSize = _range("GroupSize", int, "a whole number, at least 2", 2)
PositiveFloat = _range("PositiveFloat", float, "a number above 0", 0, included=False)
NonNegativeFloat = _range("NonNegativeFloat", float, "a number, at least 0", 0)
FiniteNonNegativeFloat = _range(
    "FiniteNonNegativeFloat", float, "a finite number, at least 0", 0, most=sys.float_info.max
)
AboveOne = _range("AboveOne", float, "a number above 1", 1, included=False)
Share = _range("Share", float, "a share, from 0 to 1", 0, most=1)
PositiveShare = _range("PositiveShare", float, "a share, above 0 and at most 1", 0, included=False, most=1)


def range_problems(settings: Any, prefix: str = "", of: type | None = None) -> Iterator[str]:
    """What no command would take, of a dataclass that no command has read: numbers and names, also of dataclasses in it.

    Of a section that may be left out (`VideoSettings | None`) jsonargparse takes null for any number, too.

    Args:
        of: the dataclass, where `settings` are its parsed values.
    """
    for name, kind in get_type_hints(of or type(settings)).items():
        value = getattr(settings, name)
        if isinstance(kind, UnionType) and value is not None:  # `PositiveInt | None`
            kind = get_args(kind)[0]
        if is_dataclass(kind) and value is not None:
            yield from range_problems(value, f"{prefix}{name}.", kind)
        elif get_origin(kind) is Literal and value not in get_args(kind):
            yield f"{prefix}{name}: {value!r} must be {' or '.join(map(repr, get_args(kind)))}"
        elif hasattr(kind, "fits") and not kind.fits(value):
            yield f"{prefix}{name}: {value!r} must be {kind.said}"
