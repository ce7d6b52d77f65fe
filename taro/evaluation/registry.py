"""The benchmarks that `eval.py` knows by name, and where their files are unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field

from taro.command_line import CONFIGS
from taro.evaluation.predictions import EvaluationError
from taro.evaluation.scorers import SCORERS
from taro.rows import OptionalString, RowError, String, read_objects

REGISTRY = CONFIGS / "datasets.yaml"

_Names = Annotated[tuple[Annotated[str, Field(strict=True)], ...], Field(description="a list of names")]


@dataclass(frozen=True)
class Benchmark:
    """An entry of `configs/datasets.yaml`, which says what each field is. Paths start from the working directory."""

    name: String
    annotations: String
    split: String
    license: String
    homepage: String
    make: String
    video_root: OptionalString = None
    aliases: _Names = ()
    breakdowns: _Names = ()
    scorer: Annotated[Literal[tuple(SCORERS)] | None, Field(description=f"one of {', '.join(SCORERS)}, or null")] = None

    def how_to_get(self) -> str:
        return f"Get it from: {self.homepage}. License: {self.license}. Then: {self.make}"


def load_benchmarks(path: str | Path | None = None) -> list[Benchmark]:
    """The benchmarks of a registry; of the one that comes along unless another is named.

    Raises:
        EvaluationError: the file can't be read, or entries are bad; all of them are named.
    """
    path = Path(path or REGISTRY)
    try:
        entries = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise EvaluationError(f"--datasets {path}: can't be read ({' '.join(str(error).split())})") from None
    if not isinstance(entries, dict) or not entries:
        raise EvaluationError(f"--datasets {path}: must be a YAML mapping of names to entries as in configs/datasets.yaml")
    rows = {name: entry | {"name": name} if isinstance(entry, dict) else entry for name, entry in entries.items()}
    try:
        benchmarks = list(read_objects(Benchmark, rows, "entry").values())
    except RowError as error:
        raise EvaluationError(f"--datasets {path}: {error}") from None
    names = [name for benchmark in benchmarks for name in {_plain(name) for name in (benchmark.name, *benchmark.aliases)}]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EvaluationError(f"--datasets {path}: names of more than one benchmark: {', '.join(twice)}")
    return benchmarks


def find_benchmark(name: str, benchmarks: list[Benchmark]) -> Benchmark:
    """By name or alias, without regard to case, hyphens and underscores.

    Raises:
        EvaluationError: there is none.
    """
    for benchmark in benchmarks:
        if _plain(name) in map(_plain, (benchmark.name, *benchmark.aliases)):
            return benchmark
    known = ", ".join(" or ".join((benchmark.name, *benchmark.aliases)) for benchmark in benchmarks)
    raise EvaluationError(f"--dataset {name}: unknown, allowed: {known}; --datasets FILE adds others")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
