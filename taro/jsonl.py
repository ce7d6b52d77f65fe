"""JSON lines, and a folder that long work writes its results to as such: gone on with after a kill, shared by processes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from taro.errors import TaroError
from taro.files import whole_file
from taro.lock import lock_file
from taro.messages import list_lines

CONFIG_NAME = "config.yaml"

Row = dict[str, Any]
Item = TypeVar("Item")


class NotJSON(str):
    """Instead of the value of a line that has none: why."""


def parse_lines(lines: Iterable[str | bytes]) -> Iterator[tuple[int, Any]]:
    """Numbers, from 1, and values of the lines that are not blank."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                value = NotJSON(f"not JSON ({error})")
            yield number, value


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Those of a file, read as they are asked for."""
    with path.open("rb") as file:
        yield from parse_lines(file)


def write_lines(rows: Iterable[Any], path: str | os.PathLike[str]) -> None:
    """Write each row as one line of JSON; the file appears whole or not at all, and its folder is made where missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


class ResumeError(TaroError):
    """The folder can't be gone on with as asked, or there is no such part."""


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`; by the items' places, so that all parts together are the whole."""

    number: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """`i/n`, i from 0; None is the whole.

        Raises:
            ResumeError: anything else.
        """
        if text is None:
            return cls()
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
            raise ResumeError(f"--shard {text}: give i/n with 0 <= i < n, as in 0/8")
        return cls(int(number), int(count))

    def of(self, items: Sequence[Item]) -> list[Item]:
        return list(items[self.number :: self.count])


class ResumableFolder:
    """Rows with a unique `id` each, in `<name>.jsonl`, or while several shards work in one file for each.

    A row is on disk before the next one is made. A process that is killed loses at most the row it was writing. Work goes
    on by asking `read` what is there, appending the rest and then calling `finish`.

    Args:
        folder: where; made where missing.
        about: what determines the rows, of JSON's types. It is kept in `config.yaml`; a folder holds the rows of one.
        shard: the part of this process.
        name: of the file of rows.

    Raises:
        ResumeError: the folder holds rows of another configuration, or of other shards, or can't be made.
        FolderInUse: another process is at work on the same part.
    """

    def __init__(self, folder: str | Path, about: dict[str, Any], shard: Shard = Shard(), name: str = "predictions") -> None:
        self.folder, self.shard, self.name = Path(folder), shard, name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = lock_file(self.folder / f".{self.path.stem}.lock", self.folder, "wait for its end")
        except OSError as error:
            raise ResumeError(f"--output {folder}: no folder that can be made and written to ({error.strerror})") from None
        about = json.loads(json.dumps(about | {"shards": shard.count}))
        # Another shard, or a process that was stopped, may have been here first.
        with whole_file(self.folder / CONFIG_NAME, replace=False) as file:
            yaml.dump(about, file, _ConfigDumper, sort_keys=False, allow_unicode=True, width=10_000, encoding="utf-8")
        differences = list_differences(read_config(self.folder), about).items()
        if differences:
            head = f"{folder} holds the results of another configuration; choose another --output."
            raise ResumeError(list_lines(head, [f"{name}: {there!r} there, {now!r} now" for name, (there, now) in differences]))

    @property
    def path(self) -> Path:
        """The file that this process adds to."""
        if self.shard.count == 1:
            return self.folder / f"{self.name}.jsonl"
        return self.folder / f"{self.name}-{self.shard.number}-of-{self.shard.count}.jsonl"

    def read(self) -> dict[str, Row]:
        """The rows of all shards so far, as `read_folder` gives them."""
        return read_folder(self.folder, self.name)

    def append(self, rows: Iterable[Row]) -> None:
        """Write each row as it comes."""
        with self.path.open("a+b", buffering=0) as file:  # one write a row: whole rows, also if two processes append
            file.seek(0)
            content = file.read()
            if content and not content.endswith(b"\n"):  # a line that a killed process has begun
                file.truncate(content.rfind(b"\n") + 1)
            for row in rows:
                file.write(_line(row))

    def finish(self, ids: Collection[str]) -> bool:
        """Whether all these have a row; if so, `<name>.jsonl` holds them from now on, in this order."""
        known = self.read()
        if not known.keys() >= set(ids):
            return False
        with whole_file(self.folder / f"{self.name}.jsonl") as file:
            file.writelines(_line(known[id]) for id in ids)
        return True


def read_folder(folder: str | Path, name: str = "predictions") -> dict[str, Row]:
    """The rows that are in a folder, of all shards, by id; of two with one id the later one. Raises what `read_rows` does."""
    whole, parts = Path(folder, f"{name}.jsonl"), sorted(Path(folder).glob(f"{name}-*-of-*.jsonl"))
    return {row["id"]: row for path in (whole, *parts) if path.is_file() for row in read_rows(path)}


def list_repeated(folder: str | Path, name: str = "predictions") -> list[str]:
    """The ids that more than one line of a finished `<name>.jsonl` has. Raises what `read_rows` does."""
    path = Path(folder, f"{name}.jsonl")
    counts = Counter(row["id"] for row in read_rows(path)) if path.is_file() else Counter()
    return [id for id, count in counts.items() if count > 1]


def read_rows(path: Path) -> list[Row]:
    """The rows of one file. A last line without an end was cut off and is left out.

    Raises:
        ResumeError: another line is no row.
    """
    rows = []
    with path.open("rb") as file:
        for number, row in parse_lines(line for line in file if line.endswith(b"\n")):
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                found = row if isinstance(row, NotJSON) else "no row with an id"
                raise ResumeError(f"{path}: line {number} is {found}; delete the line to have it made again")
            rows.append(row)
    return rows


def read_config(folder: str | Path) -> dict[str, Any]:
    """What determined the rows of a folder.

    Raises:
        ResumeError: the folder has no `config.yaml`, or one that can't be read.
    """
    path = Path(folder, CONFIG_NAME)
    try:
        config = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        config = " ".join(str(error).split())
    if not isinstance(config, dict):
        raise ResumeError(f"{path}: holds no settings ({config}); name a folder that a command wrote with --output")
    return config


def list_differences(first: dict[str, Any], second: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """What differs between two configurations, by dotted name, with both values; None where one has no such name."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= list_differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found[prefix + name] = (one, other)
    return found


class _ConfigDumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


_ConfigDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"  # ASCII: no character in it that some readers take for the end of a line
