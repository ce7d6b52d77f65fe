"""The benchmarks that `eval.py` knows by name, and where their files are unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from taro.command_line import CONFIGS
from taro.evaluation.predictions import EvaluationError
from taro.messages import describe_fault, list_lines
from taro.rows import OptionalString, String, read_fields

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
    scorer: Annotated[Literal["qvhighlights"] | None, Field(description="qvhighlights, or null")] = None

    def how_to_get(self) -> str:
        return f"Get it from: {self.homepage}. License: {self.license}. Then: {self.make}"


def load_benchmarks(path: str | Path | None = None) -> list[Benchmark]:
    """The benchmarks of a registry; of the one that comes along unless another is named.

    Raises:
        EvaluationError: the file can't be read, or entries are bad; all of them are named.
    """
    path = Path(path or REGISTRY)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise EvaluationError(f"--datasets {path}: can't be read ({' '.join(str(error).split())})") from None
    if not isinstance(entries, dict) or not entries:
        raise EvaluationError(f"--datasets {path}: must be a YAML mapping of names to entries as in configs/datasets.yaml")
    faults: list[str] = []
    benchmarks = [benchmark for name, entry in entries.items() for benchmark in _read(name, entry, faults)]
    faults = faults or _shared_names(benchmarks)
    if faults:
        raise EvaluationError(list_lines(f"--datasets {path}:", faults))
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


def own_benchmark(annotations: str) -> Benchmark:
    """Samples of one's own, under the name of their file; the videos are beside it."""
    return Benchmark(Path(annotations).stem or "custom", annotations, "all", "unknown", "none", "none")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _read(name: Any, entry: Any, faults: list[str]) -> Iterator[Benchmark]:
    """The benchmark of an entry; none, but notes in `faults`, where it is bad."""
    if not isinstance(name, str) or not isinstance(entry, dict):
        faults.append(describe_fault(str(name), entry, "a name with fields"))
        return
    values, problems = read_fields(Benchmark, {**entry, "name": name}, closed=True)
    faults += [f"{name}: {problem}" for problem in problems.values()]
    if not problems:
        yield Benchmark(**values)


def _shared_names(benchmarks: list[Benchmark]) -> list[str]:
    owner: dict[str, str] = {}
    faults = []
    for benchmark in benchmarks:
        for name in (benchmark.name, *benchmark.aliases):
            if owner.setdefault(_plain(name), benchmark.name) != benchmark.name:
                faults.append(f"{benchmark.name}: {name} is a name of {owner[_plain(name)]} already")
    return faults
