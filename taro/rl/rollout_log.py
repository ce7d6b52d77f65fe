"""The rollouts that a run wrote: `rollouts/step_*.jsonl`, a line for each completion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from taro.data.samples import Sample, load_samples
from taro.errors import TaroError
from taro.evaluation.predictions import Answer, Iou
from taro.jsonl import NotJSON, parse_lines
from taro.messages import list_lines
from taro.rows import Number, Pair, String, read_fields
from taro.tasks import DEFAULT, TASKS

_NAME = re.compile(r"step_(\d+)(?:_rank\d+)?\.jsonl")


class RolloutLogError(TaroError):
    """Rollouts, or the samples that they are of, that are not there or can't be read."""


@dataclass(frozen=True)
class Record:
    """One completion of a training run, as `taro.rl.step_log` records it.

    Attributes:
        rewards: by name, before their weights.
        weight: its advantage.
        reward: their weighted sum, which the group compares; the plain sum in the files of runs that didn't write it.
        temporal_gap: nats per token; None where it wasn't measured.
        constructed: whether it starts with a constructed path.
        finished: whether it ended before max_tokens.
        task: the sample's.
    """

    id: String
    query: String
    spans: Annotated[tuple[Pair, ...], Field(description="[[start, end], ...] (seconds)")]
    completion: String
    answer: Answer
    iou: Iou
    rewards: Annotated[dict[str, Number], Field(description='{"name": a number, ...}')]
    weight: Annotated[Number, Field(description="a number")]
    constructed: Annotated[bool, Field(description="true or false")] = False
    finished: Annotated[bool, Field(description="true or false")] = True
    temporal_gap: Annotated[Number | None, Field(description="a number, or null")] = None
    reward: Annotated[Number | None, Field(description="a number")] = None
    task: Annotated[Literal[tuple(TASKS)], Field(description=f"one of {', '.join(TASKS)}")] = DEFAULT

    def __post_init__(self) -> None:
        if self.reward is None:
            object.__setattr__(self, "reward", sum(self.rewards.values()))


@dataclass(frozen=True)
class RecordedGroup:
    """The completions of one prompt in one step."""

    step: int
    records: list[Record] = field(default_factory=list)

    @property
    def spread(self) -> float:
        """Of its rewards; with 0 nothing is learned from it."""
        rewards = [record.reward for record in self.records]
        return max(rewards) - min(rewards)


def list_steps(folder: Path) -> dict[int, list[Path]]:
    """The files of each step, in their order.

    Raises:
        RolloutLogError: there are none.
    """
    if not folder.is_dir():
        raise RolloutLogError(f"{folder}: no such folder; name that of a run, as outputs/tiny")
    steps: dict[int, list[Path]] = {}
    for path in sorted((folder / "rollouts").glob("step_*.jsonl")):
        if match := _NAME.fullmatch(path.name):
            steps.setdefault(int(match[1]), []).append(path)
    if not steps:
        raise RolloutLogError(
            f"{folder}: has no rollouts/step_*.jsonl; name the folder of a run of train.py whose rollouts_every is not 0"
        )
    return dict(sorted(steps.items()))


def read_groups(step: int, paths: Sequence[Path]) -> list[RecordedGroup]:
    """The groups of a step: neighbouring lines with one id.

    Raises:
        RolloutLogError: lines that are no record, all named. A last line that was cut off is left out: a run may be writing it.
    """
    groups: list[RecordedGroup] = []
    bad: list[str] = []
    for path in paths:
        last = None
        for number, row in _rows(path):
            record, problem = _read(row)
            if record is None:
                bad.append(f"{path} line {number}: {problem}")
                continue
            if record.id != last:
                groups.append(RecordedGroup(step))
            groups[-1].records.append(record)
            last = record.id
    if bad:
        raise RolloutLogError(list_lines("lines that are no rollouts; delete them, or name another folder:", bad))
    return groups


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        yield from parse_lines(line for line in file if line.endswith(b"\n"))


def _read(row: Any) -> tuple[Record | None, str]:
    if isinstance(row, NotJSON) or not isinstance(row, dict):
        return None, str(row) if isinstance(row, NotJSON) else "not a JSON object"
    values, faults = read_fields(Record, row)
    return (None, "; ".join(faults.values())) if faults else (Record(**values), "")


def find_samples(folder: Path) -> dict[str, Sample]:
    """The samples that a run was trained on, by id.

    Raises:
        RolloutLogError: its `config.yaml` doesn't say which, or they are not there any more.
        SampleError: they can't be read.
    """
    try:
        data = yaml.safe_load((folder / "config.yaml").read_bytes())["data"]
        file, root = Path(data["train_file"]), data.get("video_root")
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise RolloutLogError(f"{folder}/config.yaml doesn't say what the run was trained on") from None
    if not file.is_file():
        raise RolloutLogError(f"{file}, which the run was trained on, is not there; run this where train.py ran")
    return {sample.id: sample for sample in load_samples(file, video_root=root, bad_rows="keep")}
