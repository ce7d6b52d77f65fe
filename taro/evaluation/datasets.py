"""The benchmarks that `eval.py` knows by name, and where their files are unless told otherwise."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from taro.command_line import CONFIGS
from taro.evaluation.predictions import EvaluationError

REGISTRY = CONFIGS / "datasets.yaml"
SCORERS = ("qvhighlights",)


@dataclass(frozen=True)
class Benchmark:
    """An entry of `configs/datasets.yaml`, which says what each field is. Paths start from the working directory."""

    name: str
    annotations: str
    split: str
    license: str
    homepage: str
    make: str
    video_root: str | None = None
    aliases: tuple[str, ...] = ()
    breakdowns: tuple[str, ...] = ()
    scorer: str | None = None

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
    faults = [fault for name, entry in entries.items() for fault in _faults_of(name, entry)]
    benchmarks = [] if faults else [_build(name, entry) for name, entry in entries.items()]
    faults += _shared_names(benchmarks)
    if faults:
        raise EvaluationError(f"--datasets {path}:\n" + "\n".join(f"- {fault}" for fault in faults))
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


_LISTS = ("aliases", "breakdowns")
_OPTIONAL_TEXTS = ("video_root", "scorer")
_FIELDS = {field.name: field.default is MISSING for field in fields(Benchmark) if field.name != "name"}  # whether required


def _build(name: str, entry: dict[str, Any]) -> Benchmark:
    return Benchmark(name, **entry | {field: tuple(entry[field]) for field in _LISTS if field in entry})


def _faults_of(name: Any, entry: Any) -> list[str]:
    if not isinstance(name, str) or not isinstance(entry, dict):
        return [f"{name!r}: must be a name with fields, got {entry!r}"]
    faults = [f"{name}: {field}: missing" for field, required in _FIELDS.items() if required and field not in entry]
    for field, value in entry.items():
        if field not in _FIELDS:
            faults.append(f"{name}: {field}: unknown, allowed: {', '.join(_FIELDS)}")
        elif field in _LISTS:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                faults.append(f"{name}: {field}: got {value!r}, must be a list of names")
        elif not isinstance(value, str) and not (value is None and field in _OPTIONAL_TEXTS):
            faults.append(f"{name}: {field}: got {value!r}, must be text")
        elif field == "scorer" and value not in (None, *SCORERS):
            faults.append(f"{name}: scorer: got {value!r}, allowed: {', '.join(SCORERS)}")
    return faults


def _shared_names(benchmarks: list[Benchmark]) -> list[str]:
    owner: dict[str, str] = {}
    faults = []
    for benchmark in benchmarks:
        for name in (benchmark.name, *benchmark.aliases):
            if owner.setdefault(_plain(name), benchmark.name) != benchmark.name:
                faults.append(f"{benchmark.name}: {name} is a name of {owner[_plain(name)]} already")
    return faults
