"""Three stages as one command, as in TAR-TVG: GRPO to make traces, supervised training on the good ones, GRPO from there.

    python -m taro.run.stages configs/stages/tar_tvg.yaml --config configs/qwen25_7b.yaml

The file says what each stage sets (`Stages`); that is laid over the files of --config. All other flags are passed on to the
train.py of every stage and hold over both. In <output_dir>/<name>/ come the runs explore/, sft/ and grpo/, and traces.jsonl.
The same command goes on where it was stopped; what is finished is not made again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from taro.command_line import Parser, answer_at_once, find_config
from taro.errors import TaroError, clean_exit
from taro.files import write_text
from taro.prepare import traces
from taro.rows import String, read_objects
from taro.run.commands import TRAIN
from taro.run.folder import SUMMARY

Settings = Annotated[dict[str, Any] | None, Field(description="settings by name")]


class StagesError(TaroError):
    """A file of stages that can't be used."""


@dataclass(frozen=True)
class Stages:
    """What a file of stages says.

    Attributes:
        name: folder of the stages in the output folder.
        configs: of all three, over those of the command line.
        explore: settings of train.py, for the run whose completions become traces.
        traces: flags of python -m taro.prepare.traces.
        sft: settings of train.py, for the supervised run, which begins with the model that `explore` does.
        grpo: settings of train.py, for the last run, which begins with the model of `sft`.
    """

    name: String
    configs: Annotated[tuple[str, ...], Field(description="a list of files")] = ()
    explore: Settings = None
    traces: Settings = None
    sft: Settings = None
    grpo: Settings = None

    @classmethod
    def read(cls, file: str) -> Stages:
        """Raises StagesError where it is no YAML, RowError where it says something else."""
        try:
            content = yaml.safe_load(Path(find_config(file)).read_bytes())
        except yaml.YAMLError as error:
            raise StagesError(f"{file}: no YAML ({' '.join(str(error).split())})") from None
        return read_objects(cls, {file: content}, "stages")[file]


def run_stages(stages: Stages, root: Path, given: Sequence[str]) -> None:
    """Make the stages that are not finished. `given`: arguments of every train.py.

    Raises:
        SystemExit: a flag is unknown, or a stage has ended with an error or a signal, whose code it is.
        TraceError: no trace is good enough.
    """
    data = root / "traces.jsonl"
    own = {
        "explore": [],
        "sft": ["--stage=sft", f"--data.train_file={data}"],
        "grpo": [f"--model.name_or_path={root / 'sft' / 'hf'}"],
    }
    of_traces = [str(root / "explore"), f"--output={data}", *flags(stages.traces or {})]
    of_stages = {stage: [*stage_arguments(stages, stage, root, given), *added] for stage, added in own.items()}
    traces.parse(of_traces)  # typos are said before anything is made
    for arguments in of_stages.values():
        answer_at_once(TRAIN, arguments)
    for stage, arguments in of_stages.items():
        if (root / stage / SUMMARY).exists():
            print(f"{stage}: finished, in {root / stage}; to make it again, delete that and what came after it", flush=True)
            continue
        if stage == "sft" and not data.exists():
            traces.main(of_traces)
        if code := call(arguments):
            print(f"{stage}: ended with exit code {code}; the same command goes on from there", file=sys.stderr)
            sys.exit(code)


def stage_arguments(stages: Stages, stage: str, root: Path, given: Sequence[str]) -> list[str]:
    """Of its train.py; its settings are written to a file in `root`."""
    file = root / f"{stage}.yaml"
    root.mkdir(parents=True, exist_ok=True)
    write_text(file, yaml.safe_dump(getattr(stages, stage) or {}, sort_keys=False))
    configs = [f"--config={one}" for one in (*stages.configs, file)]
    return [*given, *configs, f"--output_dir={root}", f"--name={stage}", "--ckpt_path=auto"]


def flags(settings: dict[str, Any]) -> list[str]:
    """Flags of a command whose switches take no value."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items() if value is not False]


def call(arguments: Sequence[str]) -> int:
    """train.py as a process of its own, which starts its other ranks and gives its memory back. It gets the signals at which a
    run saves and ends; Ctrl-C it has from the terminal. Returns its exit code."""
    with subprocess.Popen([sys.executable, "-m", "taro.run.train", *arguments]) as process:
        numbers = (signal.SIGTERM, signal.SIGUSR1)
        earlier = [signal.signal(number, lambda number, _: process.send_signal(number)) for number in numbers]
        while process.returncode is None:
            with suppress(KeyboardInterrupt):
                process.wait()
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("stages", help="file that says what each stage sets, as configs/stages/tar_tvg.yaml")
    parser.add_argument("--config", metavar="FILE", action="append", default=[], help="of all stages, below what the file says")
    parser.add_argument("--name", help="folder of the stages, in place of the file's `name`")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs"), help="where that folder goes")
    args, others = parser.parse_known_args(arguments)
    stages = Stages.read(args.stages)
    root = args.output_dir / (args.name or stages.name)
    run_stages(stages, root, [*(f"--config={file}" for file in args.config), *others])
    print(f"the stages are in {root}, the model in {root / 'grpo' / 'hf'}")


if __name__ == "__main__":
    with clean_exit():
        main()
