"""The file that an evaluation writes its answers to, one line a sample: gone on with after a stop, shared by shards."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taro.data.samples import Sample


class EvaluationError(ValueError):
    """What was asked for can't be evaluated."""


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`; by the samples' places, so that all parts together are the whole."""

    number: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """`i/n`, i from 0; None is the whole.

        Raises:
            EvaluationError: anything else.
        """
        if text is None:
            return cls()
        number, _, count = text.partition("/")
        if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
            raise EvaluationError(f"--shard {text}: give i/n with 0 <= i < n, as in 0/8")
        return cls(int(number), int(count))

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        return list(samples[self.number :: self.count])


class PredictionFolder:
    """Predictions by sample id, in one file for each shard.

    Args:
        folder: where; made where missing.
        about: the configuration. A folder holds the answers of one.

    Raises:
        EvaluationError: the folder holds answers of another configuration, or of other shards.
    """

    def __init__(self, folder: str | Path, about: dict[str, Any], shard: Shard) -> None:
        self.folder, self.shard = Path(folder), shard
        self.folder.mkdir(parents=True, exist_ok=True)
        about = json.loads(json.dumps(about | {"shards": shard.count}))
        stored = self.folder / "evaluation.json"
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".json") as file:
            file.write(json.dumps(about, indent=2) + "\n")
            file.flush()
            with suppress(FileExistsError):  # another shard, or an evaluation that was stopped, was here first
                os.link(file.name, stored)
        _require_same(stored, json.loads(stored.read_text()), about)
        single = shard.count == 1
        self.path = self.folder / ("predictions.jsonl" if single else f"predictions-{shard.number}-of-{shard.count}.jsonl")

    def read(self) -> dict[str, dict[str, Any]]:
        """The predictions of all shards so far by sample id. A last line that was cut off is taken out of this shard's."""
        if self.path.is_file():
            content = self.path.read_bytes()
            if not content.endswith(b"\n"):
                self.path.write_bytes(content[: content.rfind(b"\n") + 1])
        rows = (
            json.loads(line)
            for path in sorted(self.folder.glob("predictions*.jsonl"))
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        )
        return {row["id"]: row for row in rows}

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write each row as it comes."""
        with self.path.open("a") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
                file.flush()

    @property
    def has_metrics(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """In one go, beside what they are of."""
        about = json.loads((self.folder / "evaluation.json").read_text())
        path = self.folder / f"metrics-{os.getpid()}.unfinished"
        path.write_text(json.dumps(about | {"metrics": metrics}, indent=2) + "\n")
        os.replace(path, self.folder / "metrics.json")


def file_states(*paths: str | Path | None) -> list[str]:
    """Size and time of each file, and of the files of each folder, that is there: another model under the same name differs."""
    states = []
    for path in (Path(path) for path in paths if path is not None):
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] * path.is_file()
        states += [f"{file.name}: {file.stat().st_size} bytes, {file.stat().st_mtime_ns} ns" for file in files]
    return states


def digest_samples(samples: Sequence[Sample]) -> str:
    """The same for the same samples, wherever their videos are."""
    rows = [[sample.id, sample.query, sample.spans, sample.clip, Path(sample.video).name] for sample in samples]
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()


def _require_same(path: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    differing = sorted(name for name in stored.keys() | asked.keys() if stored.get(name) != asked.get(name))
    if differing:
        lines = "\n".join(f"- {name}: {stored.get(name)} there, {asked.get(name)} now" for name in differing)
        raise EvaluationError(f"{path.parent} holds the answers of another evaluation; choose another --output.\n{lines}")
