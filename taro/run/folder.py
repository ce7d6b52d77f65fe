"""The folder of a run: what it was made from, and what came out."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import subprocess
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from taro.command_line import program
from taro.evaluation.registry import load_benchmarks
from taro.files import write_json, write_text
from taro.jsonl import list_differences
from taro.lock import lock_file
from taro.messages import print_table
from taro.progress import Plan
from taro.run.checks import ENVIRONMENT, ConfigError

DISTRIBUTION = "taro-vtg"  # of this package, see setup.cfg
PACKAGES = (DISTRIBUTION, "torch", "transformers", "lightning", "torchmetrics", "av", "decord", "vllm")
SUMMARY, BEFORE, FAILED = "summary.json", "before.json", "failed.jsonl"


def lock_folder(folder: Path) -> AbstractContextManager[object]:
    """Keep every other run out of a run's folder, whatever is made of the folder meanwhile. Rank 0 holds the lock for all.

    Raises:
        FolderInUse: another run is alive in it.
        ConfigError: nothing can be written there.
    """
    if rank_zero_only.rank != 0:
        return nullcontext()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return lock_file(folder.with_name(f".{folder.name}.lock"), folder, "wait for its end, or give this run another name")
    except OSError as error:
        raise ConfigError(f"output_dir = {folder.parent}: can't be written to ({error.strerror})") from None


@rank_zero_only
def prepare_folder(folder: Path, config: str, step: int | None) -> None:
    """Make the folder, with every setting (`config.yaml`), the commit and the package versions (`environment.json`).

    Args:
        config: the settings as YAML.
        step: that the run goes on after; None: an earlier run of the same name is kept, under a name with its time.
    """
    if step is not None:
        _drop_records_after(folder, step)
        _keep_config(folder, config, step)
    elif folder.exists() and any(folder.iterdir()):
        named = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        numbered = (named.with_name(f"{named.name}-{number}") for number in itertools.count(2))
        kept = next(path for path in itertools.chain([named], numbered) if not path.exists())
        os.replace(folder, kept)
        print(f"the earlier run in {folder} is kept as {kept}")
    folder.mkdir(parents=True, exist_ok=True)
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    environment = {"git_commit": _git_commit(), "python": platform.python_version(), "packages": versions}
    write_json(folder / ENVIRONMENT, environment)
    write_text(folder / "config.yaml", config)


def _drop_records_after(folder: Path, step: int) -> None:
    """Of steps that are made again: their rollouts, and what failed in them or was skipped."""
    for path in (path for name in ("rollouts", "replaced", "skipped") for path in folder.glob(f"{name}/step_*")):
        if int(re.match(r"step_(\d+)", path.name)[1]) > step:
            path.unlink()
    if (folder / FAILED).is_file():
        kept = [row for row in _read_failed(folder) if not isinstance(row["step"], int) or row["step"] <= step]
        write_text(folder / FAILED, "".join(f"{json.dumps(row)}\n" for row in kept))


def _read_failed(folder: Path) -> list[dict[str, Any]]:
    """Samples that gave no prompt, each with its `step`, or which evaluation it was; a last line may be cut off."""
    path = folder / FAILED
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _keep_config(folder: Path, config: str, step: int) -> None:
    """Print which settings are others now, and keep the `config.yaml` until then."""
    path = folder / "config.yaml"
    earlier = path.read_text() if path.is_file() else config
    differences = list_differences(yaml.safe_load(earlier) or {}, yaml.safe_load(config))
    lines = [f"- {name}: {there} -> {here}" for name, (there, here) in differences.items() if name != "ckpt_path"]
    if lines:
        kept = folder / f"config.step_{step}.yaml"
        if not kept.exists():  # else no step that is left was made with what is there now
            write_text(kept, earlier)
        print("\n".join([f"settings that are others after step {step} (those until then are kept in {kept}):", *lines]))


def _git_commit() -> str | None:
    """The commit of the code, with `-dirty` where the tree differs from it; None outside of a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()


@rank_zero_only
def write_before(folder: Path, about: dict, metrics: dict) -> None:
    """The base model's metrics on the test file, and what they follow from."""
    write_json(folder / BEFORE, {"metrics": metrics, "about": about})


def read_before(folder: Path, about: dict) -> dict | None:
    """The metrics that an earlier part of the run has measured; None where it has not, or of something else."""
    path = folder / BEFORE
    stored = json.loads(path.read_text()) if path.is_file() else {"about": None}
    return stored["metrics"] if stored["about"] == about else None


def write_summary(folder: Path, before: dict, after: dict, best: dict, steps: int, seconds: float) -> dict:
    """What `summary.json` holds: metrics under their own names, without the logger's prefix, and how many samples gave no
    prompt, each counted once.

    Args:
        best: the step whose weights are exported and its score in validation.
    """
    parts = {"before": before, "after": after}
    named = {part: {name.removeprefix("test/"): value for name, value in parts[part].items()} for part in parts}
    failed: dict[str, set[str]] = {"training": set(), "validation": set(), "test": set()}
    for row in _read_failed(folder):
        failed["training" if isinstance(row["step"], int) else row["step"]].add(row["id"])
    counts = {when: len(ids) for when, ids in failed.items()}
    summary = named | {"best": best, "failed": counts, "steps": steps, "seconds": seconds}
    if rank_zero_only.rank == 0:
        write_json(folder / SUMMARY, summary)
    return summary


def read_summary(folder: Path, steps: int, tested: bool) -> dict | None:
    """The summary of a run that has ended after so many steps; None where it, the metrics or the export is still to be made."""
    if not (folder / SUMMARY).is_file() or not (folder / "hf").is_dir():
        return None
    summary = json.loads((folder / SUMMARY).read_text())
    return summary if summary["steps"] == steps and (summary["after"] or not tested) else None


@rank_zero_only
def print_finished(folder: Path, step: int, plan: Plan) -> None:
    limits = {"trainer.max_epochs": plan.max_epochs, "trainer.max_steps": plan.max_steps}
    shown = " or ".join(f"{name} (now {value})" for name, value in limits.items() if value not in (None, -1))
    print(f"the run in {folder} is finished: {step} of {max(step, plan.steps)} steps. To prolong it, raise {shown}.")


@rank_zero_only
def print_summary(summary: dict) -> None:
    """Steps and time, the metrics before and after as a table where there are any, and which step was exported."""
    print(f"{summary['steps']} steps, {summary['seconds']:.0f} s")
    if summary["before"]:
        pairs = {name: (before, summary["after"][name]) for name, before in summary["before"].items()}
        rows = ([name, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"] for name, (before, after) in pairs.items())
        print_table(["held-out", "before", "after", "change"], rows)
    step = summary["best"]["step"]
    monitor, score = next((name, value) for name, value in summary["best"].items() if name != "step")
    if score is None:
        print(f"hf/ is step {step} of {summary['steps']}, the last one: nothing was validated")
    elif step == 0:
        print(f"hf/ is the base model: no step scored more than its {monitor} {score:.3f} in validation")
    else:
        print(f"hf/ is step {step} of {summary['steps']}, the best in validation: {monitor} {score:.3f}")
    failed = {when: count for when, count in summary["failed"].items() if count}
    if failed:
        parts = ", ".join(f"{count} of {when}" for when, count in failed.items())
        print(f"{sum(failed.values())} samples failed ({parts}): see {FAILED} in the run's folder")


@rank_zero_only
def print_next(folder: Path, test_file: str | None) -> None:
    """Where the run is, and what to do with its model."""
    model = folder / "hf"
    print(f"the run is in {folder}, its model in {model}")
    names = [one.name for one in load_benchmarks() if test_file is not None and Path(one.annotations) == Path(test_file)]
    samples = f"--dataset {names[0]}" if names else f"--annotations {test_file or 'FILE'}"
    print(f"next: {program('eval')} {samples} --model {model} --output outputs/eval/{folder.name}")
