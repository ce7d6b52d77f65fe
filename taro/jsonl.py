"""JSON lines, and a folder that long work writes its results to as such: gone on with after a kill, shared by processes."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from taro.errors import TaroError
from taro.files import whole_file, write_text
from taro.lock import FolderInUse, lock_file
from taro.messages import list_lines

CONFIG_NAME = "config.yaml"

Row = dict[str, Any]
Item = TypeVar("Item")


class NotJSON:
    """Instead of the value of a line that has none; as text, why."""

    def __init__(self, error: ValueError) -> None:
        self.error = error

    def __str__(self) -> str:
        return f"not JSON ({self.error})"


def parse_lines(lines: Iterable[str | bytes]) -> Iterator[tuple[int, Any]]:
    """Numbers, from 1, and values of the lines that are not blank."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                value = NotJSON(error)
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
        ResumeError: the folder holds rows of another configuration, or of other shards, or can't be made; or another process
            is at work on the same part.
    """

    def __init__(self, folder: str | Path, about: dict[str, Any], shard: Shard = Shard(), name: str = "predictions") -> None:
        self.folder, self.shard, self.name = Path(folder), shard, name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResumeError(f"--output {folder}: no folder can be made there ({error.strerror})") from None
        try:
            self.lock = lock_file(self.folder / f".{self.path.stem}.lock", self.folder, "wait for its end")
        except FolderInUse as error:
            raise ResumeError(f"--output {error}") from None
        except OSError as error:
            raise ResumeError(f"--output {folder}: can't be written to ({error.strerror})") from None
        about = json.loads(json.dumps(about | {"shards": shard.count}))
        # Another shard, or a process that was stopped, may have been here first.
        with whole_file(self.folder / CONFIG_NAME, replace=False) as file:
            file.write(dump_config(about).encode())
        _require_same(self.folder, read_config(self.folder), about)

    @property
    def path(self) -> Path:
        """The file that this process adds to."""
        if self.shard.count == 1:
            return self.folder / f"{self.name}.jsonl"
        return self.folder / f"{self.name}-{self.shard.number}-of-{self.shard.count}.jsonl"

    def read(self) -> dict[str, Row]:
        """The rows of all shards so far, by id. A last line that was cut off is no row.

        Raises:
            ResumeError: a line before the last one is no row.
        """
        return read_folder(self.folder, self.name)

    def append(self, rows: Iterable[Row]) -> None:
        """Write each row as it comes."""
        _drop_unfinished_line(self.path)
        with self.path.open("ab", buffering=0) as file:  # one write a row: whole rows, also if two processes append
            for row in rows:
                file.write(_line(row))

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those that no shard has a row of yet."""
        known = self.read()
        return [id for id in ids if id not in known]

    def finish(self, ids: Collection[str]) -> bool:
        """Whether all these have a row; if so, `<name>.jsonl` holds them from now on, in this order."""
        known = self.read()
        if any(id not in known for id in ids):
            return False
        with whole_file(self.folder / f"{self.name}.jsonl") as file:
            file.writelines(_line(known[id]) for id in ids)
        return True

    def has(self, file_name: str) -> bool:
        return (self.folder / file_name).is_file()

    def write(self, file_name: str, text: str) -> None:
        """A file beside the rows, whole or not at all; it replaces an earlier one."""
        write_text(self.folder / file_name, text)


def read_folder(folder: str | Path, name: str = "predictions") -> dict[str, Row]:
    """The rows that are in a folder, of all shards, by id; of two with one id the later one.

    Raises:
        ResumeError: a line before the last one of its file is no row.
    """
    whole, parts = Path(folder, f"{name}.jsonl"), sorted(Path(folder).glob(f"{name}-*-of-*.jsonl"))
    return {row["id"]: row for path in (whole, *parts) if path.is_file() for row in read_rows(path)}


def read_rows(path: Path) -> list[Row]:
    """The rows of one file. A last line without an end was cut off and is left out.

    Raises:
        ResumeError: another line is no row.
    """
    rows = []
    with path.open("rb") as file:
        for number, row in parse_lines(line for line in file if line.endswith(b"\n")):
            if isinstance(row, NotJSON):
                raise ResumeError(f"{path}: line {number} is {row}; delete the line to have it made again")
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise ResumeError(f"{path}: line {number} is no row with an id; delete the line to have it made again")
            rows.append(row)
    return rows


def read_config(folder: str | Path) -> dict[str, Any]:
    """What determined the rows of a folder.

    Raises:
        ResumeError: the folder has no `config.yaml`, or one that can't be read.
    """
    path = Path(folder, CONFIG_NAME)
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ResumeError(f"{path}: can't be read ({reason}); name a folder that a command wrote with --output") from None
    if not isinstance(config, dict):
        raise ResumeError(f"{path}: holds no settings; name a folder that a command wrote with --output")
    return config


def dump_config(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True, width=10_000)


def flatten_config(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"video": {"fps": 2.0}}` as `{"video.fps": 2.0}`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value
        flat |= flatten_config(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def list_differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The leaves in which two configurations differ, by dotted name, with both values; None where one has no such leaf."""
    first, second = flatten_config(first), flatten_config(second)
    names = sorted(first.keys() | second.keys())
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


class _ConfigDumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_ConfigDumper.add_representer(str, _represent_text)


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"  # ASCII: no character in it that some readers take for the end of a line


def _drop_unfinished_line(path: Path) -> None:
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def _require_same(folder: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    lines = [f"{name}: {there!r} there, {now!r} now" for name, (there, now) in list_differences(stored, asked).items()]
    if lines:
        raise ResumeError(list_lines(f"{folder} holds the results of another configuration; choose another --output.", lines))


def file_problems(input: str, target: str, video_root: str | None, *, resumed: bool) -> Iterator[str]:
    """What of the flags --input, --output and --video_root of a command that rewrites a samples file can't work; `resumed`: an
    output that is there is the command's own."""
    output = Path(target)
    if not Path(input).is_file():
        yield f"--input {input}: no such file"
    if output.suffix != ".jsonl":
        yield f"--output {output}: must end in .jsonl"
    elif output.resolve() == Path(input).resolve():
        yield f"--output {output}: is the input; choose another"
    elif output.exists() and not resumed:
        yield f"--output {output}: exists already; choose another, or delete it"
    if video_root is not None and not Path(video_root).is_dir():
        yield f"--video_root {video_root}: no such folder"
