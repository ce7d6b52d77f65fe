"""What people are told: values cut short, lists of which the first are shown, tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

LINES_SHOWN = 20
NAMES_SHOWN = 3
VALUE_SHOWN = 80  # characters
MISSING = object()  # the value of a field that a row doesn't have


def shorten(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = "nothing (the field is missing)" if value is MISSING else json.dumps(value, ensure_ascii=False, default=repr)
    text = text.encode(errors="backslashreplace").decode()  # JSON may hold half of a pair of surrogates
    return text if len(text) <= VALUE_SHOWN else text[: VALUE_SHOWN - 3] + "..."


def describe_fault(field: str, got: Any, allowed: str) -> str:
    """What is wrong with the value of a field."""
    return f"{field}: got {shorten(got)}; allowed: {allowed}"


def first_lines(lines: Sequence[str], shown: int = LINES_SHOWN) -> list[str]:
    """The first lines, and one that says how many more there are."""
    more = [f"and {len(lines) - shown} more"] if len(lines) > shown else []
    return [*lines[:shown], *more]


def list_lines(head: str, lines: Sequence[str]) -> str:
    """A head with the first lines below it."""
    return "\n- ".join([head, *first_lines(lines)])


def list_problems(head: str, problems: Sequence[str]) -> str:
    """All problems below a head; a single one speaks for itself."""
    return problems[0] if len(problems) == 1 else "\n- ".join([head, *problems])


def first_names(names: Iterable[Any], shown: int = NAMES_SHOWN) -> str:
    """The first names in a line, and dots where there are more."""
    names = [str(name) for name in names]
    return ", ".join([*names[:shown], *(["..."] if len(names) > shown else [])])


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to the terminal."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name, overflow="fold") for name in columns))  # nothing is cut
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def signed(value: float) -> str:
    """A difference; zero has no sign, whichever side it was rounded from."""
    text = f"{value:+.3f}"
    return text if float(text) else text[1:]


def three_places(value: float) -> str:
    """A number; zero has no sign either."""
    return f"{round(value, 3) + 0.0:.3f}"
