"""Kills a training with SIGKILL again and again, goes on each time with the same command, and compares what it has made in
the end with a run that nobody disturbed, bit for bit. On a CPU, in a few minutes:

    python tests/faults/kill_resume.py --kills 12
    python tests/faults/kill_resume.py --kills 6 --trainer.devices=2 --trainer.strategy=fsdp2
    python tests/faults/kill_resume.py --kills 6 --family qwen3_5
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from checkpoint_content import differing, read_all  # noqa: E402
from prepared_python import Command  # noqa: E402
from shared_fixtures import save_lively  # noqa: E402

from taro.data.samples import save_samples  # noqa: E402
from taro.models.checkpoint import find_fault  # noqa: E402
from taro.run.checkpoint_files import list_checkpoints  # noqa: E402
from taro.synthetic.architecture import FAMILIES  # noqa: E402
from taro.synthetic.world import WorldSettings, make_split  # noqa: E402

STEPS_PER_EPOCH, STEPS_PER_KILL, MOST_SAVES = 3, 4, 3
LIMIT = 600  # seconds of one process
START = 5  # seconds that one takes, about, to its first step


@dataclass(frozen=True)
class Kill:
    when: str
    seconds: float  # since the process was started
    newest: int  # step of the newest checkpoint
    parts: tuple[str, ...]  # what was half written or half deleted
    damaged: tuple[str, ...]  # checkpoints: there must not be any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of when it is killed")
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help="of the model, whose weights are random")
    parser.add_argument("--folder", type=Path, default=None, help="to work in and to leave; a temporary one unless given")
    args, extra = parser.parse_known_args()  # the rest is for train.py
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        command = make_command(folder, args.family, args.kills, extra)
        run(command, folder / "whole")
        kills = run_killed(command, folder / "killed", args.kills, random.Random(args.seed))
        differences = list(compare(folder / "whole", folder / "killed"))
    damaged = [name for kill in kills for name in kill.damaged]
    report(kills, differences + [f"{name} was damaged" for name in damaged])
    sys.exit(1 if differences or damaged or len(kills) < args.kills else 0)


def make_command(folder: Path, family: str, kills: int, extra: list[str]) -> list[str]:
    """A training with a save after each step, and a validation after every second."""
    model = save_lively(folder / "model", family)
    for split, videos in (("train", 3), ("validation", 1)):
        samples = make_split(folder, split, videos, seed=0, settings=WorldSettings(), workers=1)
        save_samples(samples[: 2 * STEPS_PER_EPOCH], folder / f"{split}.jsonl", relative_to=folder)
    epochs = -(-kills * STEPS_PER_KILL // STEPS_PER_EPOCH)
    settings = {
        "output_dir": folder, "ckpt_path": "auto", "model.name_or_path": model, "model.group_size": 2,
        "model.sampling.max_tokens": 96, "model.evaluation_max_tokens": 8, "model.optimizer.learning_rate": 1e-3,
        "data.train_file": folder / "train.jsonl", "data.validation_file": folder / "validation.jsonl",
        "data.test_file": "null", "data.prompts_per_step": 2, "data.workers": 0, "data.grounding.video.fps": 1.0,
        "data.grounding.video.max_tokens": 64, "trainer.max_epochs": epochs, "trainer.val_check_interval": 2,
        "trainer.accelerator": "cpu", "checkpoint.every_n_steps": 1, "progress_bar.refresh_rate": 0,
    }  # fmt: skip
    return [str(ROOT / "train.py"), *(f"--{name}={value}" for name, value in settings.items()), *extra]


def start(command: list[str], folder: Path) -> Command:
    """With a process group of its own, so that all ranks are killed."""
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        return Command([*command, f"--name={folder.name}"], stdout=log.fileno(), stderr=log.fileno())


def run(command: list[str], folder: Path) -> None:
    code = start(command, folder).wait(timeout=LIMIT)
    if code != 0:
        sys.exit(f"the training ended with {code}:\n{(folder.parent / f'{folder.name}.log').read_text()[-3000:]}")


def run_killed(command: list[str], folder: Path, count: int, rng: random.Random) -> list[Kill]:
    """Until it was killed so often or has ended; then to its end."""
    kills: list[Kill] = []
    while len(kills) < count:
        process, started = start(command, folder), time.monotonic()
        when = wait_for_moment(process, folder / "checkpoints", rng)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seconds = time.monotonic() - started
        paths = list_checkpoints(folder / "checkpoints")
        parts = tuple(sorted(path.name for path in (folder / "checkpoints").glob("*.part*")))
        damaged = tuple(path.name for path in paths.values() if find_fault(path) is not None)
        kills.append(Kill(when, seconds, max(paths, default=0), parts, damaged))
    run(command, folder)
    return kills


def wait_for_moment(process: Command, checkpoints: Path, rng: random.Random) -> str:
    """Within a save after some whole ones, or any time: while all is loaded, or within the step that follows, after which steps
    are left for further kills, however fast they are."""
    saves = rng.randrange(MOST_SAVES)
    in_save = rng.random() < 0.6
    newest = newest_step(checkpoints)
    step = newest + saves
    while process.poll() is None and newest < step:
        time.sleep(0.002)
        newest = newest_step(checkpoints)
    if in_save:
        while process.poll() is None and not any(name.startswith("step_") and ".part" in name for name in names(checkpoints)):
            time.sleep(0.001)  # a save of so small a model takes some milliseconds
        time.sleep(rng.uniform(0, 0.02))
        return f"in the save after step {step}"
    until = time.monotonic() + rng.uniform(0, 0.5 if saves else START)
    while process.poll() is None and time.monotonic() < until and newest_step(checkpoints) <= step:
        time.sleep(0.002)
    return f"some time after step {step}"


def names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def newest_step(checkpoints: Path) -> int:
    return max(list_checkpoints(checkpoints), default=0)


def compare(whole: Path, killed: Path) -> Iterator[str]:
    """What differs between the folders of two runs."""
    yield from differing(*(read_all(folder / "checkpoints" / "last.ckpt") for folder in (whole, killed)))
    for pattern in ("checkpoints/*.ckpt", "checkpoints/*.json", "rollouts/*", "hf/*"):
        files = [{path.name: path for path in folder.glob(pattern)} for folder in (whole, killed)]
        if files[0].keys() != files[1].keys():
            yield f"{pattern}: {sorted(files[0].keys() ^ files[1].keys())} in one of them alone"
        elif not pattern.endswith(".ckpt"):
            yield from (name for name, path in files[0].items() if path.read_bytes() != files[1][name].read_bytes())


def report(kills: list[Kill], differences: list[str]) -> None:
    table = Table(title=f"killed {len(kills)} times")
    for column in ("", "when", "after", "newest whole", "left half done", "damaged"):
        table.add_column(column)
    for number, kill in enumerate(kills, start=1):
        texts = (", ".join(kill.parts), ", ".join(kill.damaged))
        table.add_row(str(number), kill.when, f"{kill.seconds:.1f} s", f"step {kill.newest}", *(text or "-" for text in texts))
    console = Console(width=120)
    console.print(table)
    same = "weights, optimizer state, counters, rollouts, scores and export are those of a run that was not killed, bit for bit"
    console.print("\n".join(f"DIFFERENT: {text}" for text in differences[:20]) or same)


if __name__ == "__main__":
    main()
