import math
from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import Field

from taro.messages import MISSING
from taro.rows import Number, Pair, RowError, Text, is_number, read_fields, read_objects


@dataclass(frozen=True)
class Part:
    name: Text
    at: Annotated[Number, Field(description="a finite number")] = 0.0


@dataclass(frozen=True)
class Thing:
    id: Text
    spans: Annotated[tuple[Pair, ...], Field(min_length=1, description="pairs")]
    parts: Annotated[tuple[Annotated[Part, Field(description="a part")], ...], Field(description="parts")] = ()


ROW = {"id": "a", "spans": [[1, 2.5]], "parts": [{"name": "x"}]}


def test_a_row_becomes_an_object():
    values, faults = read_fields(Thing, ROW | {"other": 1})
    assert Thing(**values) == Thing("a", ((1.0, 2.5),), (Part("x"),)) and not faults
    assert isinstance(values["spans"][0][0], float)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", " ", 'id: got " "; allowed: text that is not empty'),
        ("spans", 3, "spans: got 3; allowed: pairs"),
        ("spans", [[1, 2], [1, True], [3]], "spans[1]: got [1, true]; allowed: [start, end], two finite numbers (seconds)"),
        ("parts", [3], "parts[0]: got 3; allowed: a part"),
        ("parts", [{"at": 1}], "parts[0].name: got nothing (the field is missing); allowed: text that is not empty"),
        ("parts", [{"name": "x", "at": math.inf}], "parts[0].at: got Infinity; allowed: a finite number"),
        ("spans", MISSING, "spans: got nothing (the field is missing); allowed: pairs"),
    ],
)
def test_a_bad_field_is_named_at_the_innermost_place_that_is_described(field, value, message):
    row = ROW | {field: value}
    if value is MISSING:
        del row[field]
    values, faults = read_fields(Thing, row)
    assert faults == {field: message} and values.keys() == {"id", "spans", "parts"} - {field}
    renamed = read_fields(Thing, row, {field: "its name"})[1]
    assert renamed == {field: "its name" + message.removeprefix(field)}


def test_all_bad_rows_are_named_and_twenty_shown():
    rows = {str(number): ROW | {"x": 1} for number in range(30)} | {"good": ROW}
    with pytest.raises(RowError) as error:
        read_objects(Thing, rows, "thing")
    head, first, *others, last = str(error.value).splitlines()
    assert head == "30 of 31 rows can't be read:" and last == "- and 10 more" and len(others) == 19
    assert first == '- thing "0": x: got 1; allowed: no such field; there are id, spans, parts'


def test_of_complete_rows_a_field_that_has_a_default_is_missed_too():
    rows = {"a": ROW, "b": {"id": "b", "spans": [[1, 2]]}}
    assert read_objects(Thing, rows, "thing").keys() == {"a", "b"}
    with pytest.raises(RowError, match=r'thing "b": parts: got nothing \(the field is missing\); allowed: parts$'):
        read_objects(Thing, rows, "thing", complete=True)


def test_what_is_no_row():
    with pytest.raises(RowError, match=r'1 of 2 rows can\'t be read:\n- thing "a": got \[1\]; allowed: an object with fields'):
        read_objects(Thing, {"a": [1], "b": ROW}, "thing")


def test_numbers():
    assert is_number(1) and is_number(0.5)
    assert not any(map(is_number, (True, "1", None, 10**400, math.nan, math.inf)))
