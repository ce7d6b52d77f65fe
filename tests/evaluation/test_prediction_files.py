import json
import sys
from types import SimpleNamespace

import pytest

from taro.evaluation.prediction_files import describe_row, read_rows
from taro.evaluation.predictions import EvaluationError


@pytest.fixture
def rows(tmp_path):
    def rows(content, name="a.json"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(tmp_path / name)

    return rows


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"a": 1}', [("entry 1", {"a": 1})]),
        ('[{"a": 1}, 3]', [("entry 1", {"a": 1}), ("entry 2", 3)]),
        ('\ufeff{"a": 1}\r\n\n{"a": "\u2028"}', [("line 1", {"a": 1}), ("line 3", {"a": "\u2028"})]),
        ('{"a": 1}\n{}', [("line 1", {"a": 1}), ("line 2", {})]),
        ('{"a>>>b>>>c": 1, "a>>>b>>>c": 2}', [("entry 1", {"a>>>b>>>c": 1}), ("entry 2", {"a>>>b>>>c": 2})]),
        ('{"a>>>b>>>c": 1, "d": 2}', [("entry 1", {"a>>>b>>>c": 1, "d": 2})]),
        ("{}", []),
        ("\n", []),
    ],
)
def test_json(rows, content, found):
    assert rows(content) == found


def test_lines_that_are_not_json(rows):
    """They are rows all the same, so that none is left out without a word."""
    (_, good), (place, bad), (_, deep) = rows('{"a": 1}\n{"a":\n' + 100_000 * "[")
    assert good == {"a": 1} and place == "line 2"
    assert describe_row(bad).startswith("not JSON (Expecting value") and describe_row(deep).startswith("not JSON")
    assert describe_row(good) == 'got {"a": 1}'


def test_tables(rows):
    """Cells with tabs, quotes and line breaks."""
    (row,) = rows('"index"\t"said"\n"0"\t"a ""dog""\tand\nso"\n', "a.TSV")
    assert row == ("row 1", {"index": "0", "said": 'a "dog"\tand\nso'})
    assert rows("index\tsaid\n", "a.tsv") == rows("", "a.tsv") == []
    with pytest.raises(EvaluationError, match="no table with tabs between its columns"):
        rows(f"a\n{200_000 * 'x'}\n", "a.tsv")


def test_a_workbook(rows, monkeypatch):
    """As openpyxl gives its cells."""
    sheet = SimpleNamespace(iter_rows=lambda values_only: iter([("index", "said"), (0, "a dog"), (1, None)]))
    openpyxl = SimpleNamespace(load_workbook=lambda path, read_only: SimpleNamespace(worksheets=[sheet]))
    monkeypatch.setitem(sys.modules, "openpyxl", openpyxl)
    assert rows("", "a.xlsx") == [("row 1", {"index": 0, "said": "a dog"}), ("row 2", {"index": 1, "said": None})]
    openpyxl.load_workbook = lambda path, read_only: json.loads(path.read_text())  # ValueError
    with pytest.raises(EvaluationError, match=r"no workbook that can be read \(JSONDecodeError"):
        rows("", "a.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(EvaluationError, match=r"pip install openpyxl, or save it as a \.tsv, by PRED_FORMAT=tsv"):
        rows("", "a.xlsx")


@pytest.mark.parametrize("name", ["a.json", "a.tsv"])
def test_bytes_that_are_no_text(rows, name):
    with pytest.raises(EvaluationError, match="can't be read"):
        rows(b"\xff\xfe\x00", name)
