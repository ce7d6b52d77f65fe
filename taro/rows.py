"""Rows of files become objects: pydantic reads each field by its type, and the description of the type says what is allowed.

A kind of row is a class with annotated fields, such as a dataclass; a field with a default may be left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, cached_property
from numbers import Integral
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from taro.errors import TaroError
from taro.messages import MISSING, describe_fault, list_lines, shorten

Kind = TypeVar("Kind")


class RowError(TaroError):
    """Rows that can't be read; the message names every bad one (the first 20 in full)."""


def _require_whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError("no whole number")
    return int(value)


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_require_whole)]
Seconds = Annotated[Number, Field(description="a finite number (seconds)")]
String = Annotated[str, Field(strict=True, description="text")]
OptionalString = Annotated[Annotated[str, Field(strict=True)] | None, Field(description="text, or null")]
Text = Annotated[str, Field(strict=True, pattern=r"\S", description="text that is not empty")]
Pair = Annotated[tuple[Number, Number], Field(description="[start, end], two finite numbers (seconds)")]
Rest = Annotated[dict[str, Any], "keys of a row that are no field"]  # of a field that is none of a row's


def read_fields(
    kind: type, row: Mapping[str, Any], names: Mapping[str, str] | None = None, *, closed: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of the fields that can be read, and what is wrong with each of the others.

    Args:
        kind: the class with the fields.
        row: as JSON gave it; without `closed`, keys that are no field are passed over.
        names: what messages call a field, where that is not its own name.
        closed: whether keys that are no field are wrong, too.
    """
    fields, names = _fields_of(kind), names or {}
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, field in fields.items():
        value = row.get(name, MISSING)
        if name not in row and not field.required:
            continue
        try:
            values[name] = field.adapter.validate_python(value)
        except ValidationError as error:
            faults[name] = field.explain(names.get(name, name), value, error)
    for name in row if closed else ():
        if name not in fields:
            faults[name] = describe_fault(name, row[name], f"no such field; there are {', '.join(fields)}")
    return values, faults


def read_objects(kind: type[Kind], rows: Mapping[str, Mapping[str, Any]], what: str) -> dict[str, Kind]:
    """An object of each row, whose keys are all fields of `kind` and no others.

    Raises:
        RowError: rows that can't be read, each named as `what` and its key.
    """
    objects: dict[str, Kind] = {}
    bad: list[str] = []
    for key, row in rows.items():
        values, faults = read_fields(kind, dict.fromkeys(_fields_of(kind), MISSING) | row, closed=True)
        if faults:
            bad.append(f"{what} {shorten(key)}: {'; '.join(faults.values())}")
        else:
            objects[key] = kind(**values)
    if bad:
        raise RowError(list_lines(f"{len(bad)} of {len(rows)} rows can't be read:", bad))
    return objects


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold (JSON has integers without bound)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class _FieldReader:
    """Reads one field of a kind of row."""

    def __init__(self, type_: Any, required: bool) -> None:
        self.adapter, self.required = TypeAdapter(type_), required

    @cached_property
    def schema(self) -> dict[str, Any]:
        return self.adapter.json_schema()

    def explain(self, name: str, value: Any, error: ValidationError) -> str:
        """The first thing that is wrong, at the innermost place whose type has a description."""
        place, got, allowed = name, value, self.schema.get("description", "")
        schema = self.schema
        for part in error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]:
            schema, name = self._inside(schema, part), f"{name}[{part}]" if isinstance(part, int) else f"{name}.{part}"
            if schema is None:
                break
            value = value.get(part, MISSING) if isinstance(part, str) else value[part]
            if "description" in schema:
                place, got, allowed = name, value, schema["description"]
        return describe_fault(place, got, allowed)

    def _inside(self, schema: dict[str, Any], part: int | str) -> dict[str, Any] | None:
        """The schema of an item or a field; None where there is none, as of an item that a list lacks, or a choice."""
        if "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rpartition("/")[2]]
        return schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)


@cache
def _fields_of(kind: type) -> dict[str, _FieldReader]:
    types = get_type_hints(kind, include_extras=True)
    # A dataclass has its fields' defaults as attributes.
    return {name: _FieldReader(type_, not hasattr(kind, name)) for name, type_ in types.items() if type_ != Rest}
