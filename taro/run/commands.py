"""The commands of an installed TaRO: `taro-train`, `taro-eval` and the others. `train.py`, `eval.py` and `demo.py` are the
first three.

Help, and the answer to a typo, come before the imports that take seconds.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from functools import partial

from taro.command_line import CONFIGS, Command, answer_at_once
from taro.errors import clean_exit
from taro.run.trainer_checks import REFUSED
from taro.signatures import Setting

BASE_CONFIG = CONFIGS / "base.yaml"
CONFIG_NAMES = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in ("base", "datasets")))

TRAIN = Command(
    program="train.py",
    about=f"""\
Train a Qwen-VL model by GRPO to find when an event happens in a video.

    python train.py [--config FILE]... [--SETTING VALUE]...     or taro-train, where TaRO is installed

Several configs are stacked, and flags hold over them; without a config it is the tiny run. FILE is a path, or the name of one
that comes along: {CONFIG_NAMES}, and in experiments/ what changes the method.
The values below are the defaults (with --config, those of that config). --print_config shows all of them as YAML.
Objects are named by class: --trainer.logger CSVLogger, and --trainer.logger.help CSVLogger shows what it takes.""",
    parts={
        "taro.run.cli:RunSettings": "",
        "taro.rl.module:GRPOModule": "model.",
        "taro.data.datamodule:GroundingDataModule": "data.",
        "taro.rl.curriculum:CurriculumCallback": "curriculum.",
        "taro.run.checkpoints:Checkpoints": "checkpoint.",
        "taro.run.failures:FailureLimit": "failure_limit.",
        "taro.progress:ProgressBar": "progress_bar.",
        "taro.progress:ProgressLines": "progress_lines.",
        "lightning.pytorch.trainer.trainer:Trainer": "trainer.",
    },
    extra=[Setting("seed_everything", 0, "of all that is drawn: samples, rollouts, paths, shuffled frames.")],
    follows={
        "data.name_or_path": "model.name_or_path",
        "data.group_size": "model.group_size",
        "data.max_completion_tokens": "model.sampling.max_tokens",
        "data.seed": "seed_everything",
        "checkpoint.folder": "output_dir",
        "failure_limit.folder": "output_dir",
    },
    hidden=["progress_bar.theme", "progress_bar.console_kwargs", *(f"trainer.{name}" for name in REFUSED)],
    base=BASE_CONFIG,
)
EVAL = Command(
    program="eval.py",
    about="""\
Evaluate a model on a benchmark of temporal grounding.

    python eval.py --dataset NAME --model DIR_OR_HUB_NAME [--output DIR] [--SETTING VALUE]...     or taro-eval, where TaRO is
    installed. --config FILE is a YAML file with any of the settings.""",
    parts={"taro.evaluation.settings:EvaluationSettings": ""},
)

DEMO = Command(
    program="demo.py",
    about="""\
Ask a model when something happens in a video, and see what it looked at: in a browser, or as a page.

    python demo.py [--model DIR_OR_HUB_NAME]                            a page on this machine; needs gradio (extra `demo`)
    python demo.py --video V --query Q --output page.html [--shuffle]   the same of one question, without a server

Also taro-demo, where TaRO is installed. --config FILE is a YAML file with any of the settings.""",
    parts={"taro.view.demo:DemoSettings": ""},
)


def train() -> None:
    _run("taro.run.train", TRAIN)


def evaluate() -> None:
    _run("taro.run.eval", EVAL)


def demo() -> None:
    _run("taro.run.demo", DEMO)


def _run(module: str, command: Command | None = None) -> None:
    """As `python -m` does, or, where the help is known beforehand, the module's `command`."""
    with clean_exit():
        if command is None:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            answer_at_once(command, sys.argv[1:])
            importlib.import_module(module).command()


audit = partial(_run, "taro.prepare.audit")
blind = partial(_run, "taro.evaluation.blind")
caption = partial(_run, "taro.prepare.caption")
check = partial(_run, "taro.prepare.check")
compare = partial(_run, "taro.evaluation.compare")
convert = partial(_run, "taro.prepare.convert")
difficulty = partial(_run, "taro.prepare.difficulty")
doctor = partial(_run, "taro.run.doctor")
export = partial(_run, "taro.models.export")
memory_plan = partial(_run, "taro.run.memory_plan")
probes = partial(_run, "taro.view.probes")
protocols = partial(_run, "taro.evaluation.protocols")
report = partial(_run, "taro.view.report")
rewards = partial(_run, "taro.rl.rewards")
rollouts = partial(_run, "taro.view.rollouts")
score_qvhighlights = partial(_run, "taro.evaluation.qvhighlights")
stages = partial(_run, "taro.run.stages")
synthetic = partial(_run, "taro.synthetic")
tiny_model = partial(_run, "taro.synthetic.tiny")
traces = partial(_run, "taro.prepare.traces")
