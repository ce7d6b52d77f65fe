"""The folder of a run: what it was made from, and what came out."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

from taro.checkpoints import write_text
from taro.progress import Plan

PACKAGES = ("taro", "torch", "transformers", "lightning", "torchmetrics", "av", "decord", "vllm")
SUMMARY = "summary.json"


@rank_zero_only
def prepare_folder(folder: Path, resuming: bool) -> None:
    """Make the folder. An earlier run of the same name is kept, under a name with its time, unless it is gone on with."""
    if folder.exists() and not resuming and any(folder.iterdir()):
        kept = _free_name(folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}"))
        os.replace(folder, kept)
        print(f"the earlier run in {folder} is kept as {kept}")
    folder.mkdir(parents=True, exist_ok=True)


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not name.exists())


@rank_zero_only
def drop_records_after(folder: Path, step: int) -> None:
    """Of steps that are made again: their rollouts, and what failed in them or was skipped."""
    for path in (*folder.glob("rollouts/step_*"), *folder.glob("skipped/step_*")):
        if int(re.match(r"step_(\d+)", path.name)[1]) > step:
            path.unlink()
    failed = folder / "failed.jsonl"
    if failed.is_file():
        lines = [line for line in failed.read_text().splitlines() if line.endswith("}")]  # a last one may be cut off
        kept = [line for line in lines if not _is_after(json.loads(line)["step"], step)]
        write_text(failed, "".join(f"{line}\n" for line in kept))


def _is_after(when: int | str, step: int) -> bool:
    """`when`: a step, or which evaluation."""
    return isinstance(when, int) and when > step


@rank_zero_only
def write_environment(folder: Path, config: str) -> None:
    """`config.yaml` with every setting, `environment.json` with commit and package versions."""
    write_text(folder / "config.yaml", config)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    environment = {"git_commit": git_commit(), "python": platform.python_version(), "packages": versions}
    write_text(folder / "environment.json", json.dumps(environment, indent=2) + "\n")


def git_commit() -> str | None:
    """The commit of the code, with `-dirty` where the tree differs from it; None outside of a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make_summary(before: dict, after: dict, steps: int, seconds: float) -> dict:
    """What `summary.json` holds: metrics under their own names, without the logger's prefix."""
    parts = {"before": before, "after": after}
    named = {part: {name.removeprefix("test/"): value for name, value in parts[part].items()} for part in parts}
    return named | {"steps": steps, "seconds": seconds}


@rank_zero_only
def write_summary(folder: Path, summary: dict) -> None:
    write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")


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
    print(f"the run in {folder} is finished: {step} of {plan.steps} steps. To prolong it, raise {shown}.")


@rank_zero_only
def print_summary(summary: dict) -> None:
    """Steps and time, and the metrics before and after as a table where there are any."""
    title = f"{summary['steps']} steps, {summary['seconds']:.0f} s"
    if not summary["before"]:
        print(title)
        return
    table = Table(title=title)
    for column in ("held-out", "before", "after", "change"):
        table.add_column(column, justify="left" if column == "held-out" else "right")
    for name, before in summary["before"].items():
        after = summary["after"][name]
        table.add_row(name, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}")
    Console().print(table)
