"""The folder of a run: what it was made from, and what came out."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

PACKAGES = ("taro", "torch", "transformers", "lightning", "torchmetrics", "av", "decord", "vllm")


@rank_zero_only
def prepare_folder(folder: Path, resuming: bool) -> None:
    """Make the folder. An earlier run of the same name is kept, under a name with its time, unless it is gone on with."""
    if folder.exists() and not resuming and any(folder.iterdir()):
        kept = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        os.replace(folder, kept)
        print(f"the earlier run in {folder} is kept as {kept}")
    folder.mkdir(parents=True, exist_ok=True)


@rank_zero_only
def write_environment(folder: Path, config: str) -> None:
    """`config.yaml` with every setting, `environment.json` with commit and package versions."""
    (folder / "config.yaml").write_text(config)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    environment = {"git_commit": git_commit(), "python": platform.python_version(), "packages": versions}
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")


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
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


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
