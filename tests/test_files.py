import json
import os
from dataclasses import dataclass

import pytest

from taro.files import whole_file, write_json, write_text


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_has_its_name_when_it_is_whole(tmp_path, replace):
    path = tmp_path / "a.txt"
    with whole_file(path, replace=replace) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_an_earlier_file_is_replaced_or_stays(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "é")
    with whole_file(path, replace=False) as file:
        file.write(b"second")
    assert path.read_text(encoding="utf-8") == "é"
    write_text(path, "third")
    assert path.read_text() == "third" and list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_text(tmp_path / "gone" / "a.txt", "x")
    assert error.value.filename == str(tmp_path / "gone" / "a.txt")


def test_two_writers_of_one_name_are_not_in_each_others_way(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_dataclasses_become_objects_in_json(tmp_path):
    @dataclass(frozen=True)
    class Row:
        name: str
        shares: tuple[float, ...]

    write_json(tmp_path / "rows.json", [Row("a", (0.5, 1.0))])
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"name": "a", "shares": [0.5, 1.0]}]
    assert (tmp_path / "rows.json").read_text().endswith("]\n")
