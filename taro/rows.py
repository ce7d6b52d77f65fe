"""Rows of files become objects: pydantic reads each field by its type, and the description of the type says what is allowed.

A kind of row is a class with annotated fields, such as a dataclass; a field with a default may be left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from taro.errors import TaroError
from taro.messages import MISSING, describe_fault, list_lines, shorten

Kind = TypeVar("Kind")

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Seconds = Annotated[Number, Field(description="a finite number (seconds)")]
String = Annotated[str, Field(strict=True, description="text")]
OptionalString = Annotated[Annotated[str, Field(strict=True)] | None, Field(description="text, or null")]
Text = Annotated[str, Field(strict=True, pattern=r"\S", description="text that is not empty")]
Pair = Annotated[tuple[Number, Number], Field(description="[start, end], two finite numbers (seconds)")]
Rest = Annotated[dict[str, Any], "keys of a row that are no field"]  # of a field that is none of a row's


class RowError(TaroError):
    """Rows that can't be read; the message names every bad one (the first 20 in full)."""


def read_fields(
    kind: type, row: Mapping[str, Any], names: Mapping[str, str] | None = None, *, complete: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of the fields that can be read, and what is wrong with each of the others.

    Args:
        kind: the class with the fields.
        row: as JSON gave it; keys that are no field are passed over.
        names: what messages call a field, where that is not its own name.
        complete: a field with a default must be there, too.
    """
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, reader in _readers(kind).items():
        if not complete and name not in row and hasattr(kind, name):  # a dataclass has its fields' defaults as attributes
            continue
        try:
            values[name] = reader.validate_python(row.get(name, MISSING))
        except ValidationError as error:
            faults[name] = _explain(_schema(reader), (names or {}).get(name, name), row.get(name, MISSING), error)
    return values, faults


def read_objects(kind: type[Kind], rows: Mapping[Any, Any], what: str, *, complete: bool = False) -> dict[Any, Kind]:
    """An object of each row, whose keys are fields of `kind` and no others; all of them where `complete`, as
    in rows that were written from such objects.

    Raises:
        RowError: rows that can't be read, each named as `what` and its key.
    """
    objects: dict[Any, Kind] = {}
    bad: list[str] = []
    for key, row in rows.items():
        if not isinstance(row, Mapping):
            bad.append(describe_fault(f"{what} {shorten(key)}", row, "an object with fields"))
            continue
        values, faults = read_fields(kind, row, complete=complete)
        unknown = [name for name in row if name not in _readers(kind)]
        allowed = f"no such field; there are {', '.join(_readers(kind))}"
        faults |= {name: describe_fault(str(name), row[name], allowed) for name in unknown}
        if faults:
            bad.append(f"{what} {shorten(key)}: {'; '.join(faults.values())}")
        else:
            objects[key] = kind(**values)
    if bad:
        raise RowError(list_lines(f"{len(bad)} of {len(rows)} rows can't be read:", bad))
    return objects


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold (JSON has integers without bound)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@cache
def _readers(kind: type) -> dict[str, TypeAdapter[Any]]:
    types = get_type_hints(kind, include_extras=True)
    return {name: TypeAdapter(type_) for name, type_ in types.items() if type_ != Rest}


@cache
def _schema(reader: TypeAdapter[Any]) -> dict[str, Any]:
    return reader.json_schema()


def _explain(schema: dict[str, Any], name: str, value: Any, error: ValidationError) -> str:
    """The first thing that is wrong, at the innermost place whose type has a description."""
    definitions, inner = schema.get("$defs", {}), schema
    place, got, allowed = name, value, schema.get("description", "")
    for part in error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]:
        inner = definitions[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        inner = inner.get("items") if isinstance(part, int) else inner.get("properties", {}).get(part)
        if inner is None:  # an item that a list lacks, or a choice
            break
        name += f"[{part}]" if isinstance(part, int) else f".{part}"
        value = value[part] if isinstance(part, int) else value.get(part, MISSING)
        if "description" in inner:
            place, got, allowed = name, value, inner["description"]
    return describe_fault(place, got, allowed)
