"""Rows of the files that evaluations write: tables, JSON, and lines of JSON."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from taro.evaluation.predictions import EvaluationError
from taro.jsonl import NotJSON
from taro.messages import shorten

Placed = list[tuple[str, Any]]  # rows, each with the name of its place

PARTS = ">>>"  # between video, query and truth in a key of TimeLens and lmms-eval


def is_key(name: Any) -> bool:
    """Whether it is one of video, query and truth."""
    return isinstance(name, str) and name.count(PARTS) >= 2


def read_rows(path: Path) -> Placed:
    """Of a table (.tsv, .xlsx), or of JSON: one value, or one a line, where one that is not JSON is a row, `NotJSON`. Raises
    EvaluationError where the file can't be read."""
    if path.suffix.lower() == ".xlsx":
        return _read_workbook(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise EvaluationError(f"{path}: can't be read ({error})") from None
    if path.suffix.lower() != ".tsv":
        return _json_rows(content)
    try:
        return [(f"row {number}", row) for number, row in enumerate(csv.DictReader(StringIO(content), delimiter="\t"), start=1)]
    except csv.Error as error:
        raise EvaluationError(f"{path}: no table with tabs between its columns ({error})") from None


def _read_workbook(path: Path) -> Placed:
    """The rows of the first sheet, named by the first of them."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise EvaluationError(
            f"{path}: workbooks are read with openpyxl, which is not installed: pip install openpyxl, or save it as a .tsv, by "
            "PRED_FORMAT=tsv in VLMEvalKit, or by pandas.read_excel(FILE).to_csv('FILE.tsv', sep='\\t', index=False)"
        ) from None
    try:
        names, *rows = load_workbook(path, read_only=True).worksheets[0].iter_rows(values_only=True)
    except (OSError, BadZipFile, KeyError, ValueError) as error:
        raise EvaluationError(f"{path}: no workbook that can be read ({type(error).__name__}: {error})") from None
    return [(f"row {number}", dict(zip(names, row, strict=False))) for number, row in enumerate(rows, start=1)]


def _json_rows(content: str) -> Placed:
    """Of one JSON value, or of lines."""
    try:
        values = _parse(content)
    except (ValueError, RecursionError):
        rows: Placed = []
        for number, line in enumerate(content.split("\n"), start=1):
            try:
                found = _parse(line) if line.strip() else []
            except (ValueError, RecursionError) as error:
                found = [NotJSON(f"not JSON ({error})")]
            rows += [(f"line {number}", row) for row in found]
        return rows
    return [(f"entry {number}", row) for number, row in enumerate(values, start=1)] if values != [{}] else []


def _parse(text: str) -> list[Any]:
    value = json.loads(text, object_pairs_hook=_entries)
    return value if isinstance(value, list) else [value]


def _entries(pairs: list[tuple[str, Any]]) -> Any:
    """An object; of one with several keys of video, query and truth, an object of each, so that equal ones stay two."""
    if len(pairs) > 1 and all(is_key(name) for name, _ in pairs):
        return [{name: value} for name, value in pairs]
    return dict(pairs)


def describe_row(row: Any) -> str:
    return str(row) if isinstance(row, NotJSON) else f"got {shorten(row)}"
