"""The command line of `train.py`: LightningCLI, `configs/base.yaml` under every config, and a check of the whole
configuration before anything is loaded."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from taro.command_line import CONFIGS, OneLineErrors, answer_at_once
from taro.data.before_run import check_samples
from taro.data.datamodule import GroundingDataModule
from taro.data.traces import check_traces
from taro.parser_messages import one_line
from taro.progress import Plan, ProgressBar, ProgressLines
from taro.ranges import NonNegativeInt
from taro.rl.curriculum import CurriculumCallback
from taro.rl.module import GRPOModule
from taro.rl.sft import SFTModule
from taro.run.checkpoint_files import find_checkpoint
from taro.run.checkpoints import Checkpoints
from taro.run.checks import ConfigError, list_notes, list_plan_problems, list_problems, refuse, run_folder
from taro.run.commands import BASE_CONFIG, TRAIN
from taro.run.failures import FailureLimit
from taro.run.resume import ResumePoint, identity_of, list_misfits
from taro.run.trainer_checks import as_list

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = CONFIGS / "tiny.yaml"
STAGES = {module.stage: module for module in (GRPOModule, SFTModule)}


@dataclass(frozen=True)
class RunSettings:
    """What a run is called, where it goes and where it comes from.

    Args:
        name: of the run; its folder is <output_dir>/<name>.
        output_dir: folder of all runs.
        stage: `grpo`, or `sft`: learn to write the `traces` of the samples (python -m taro.prepare.traces).
        ckpt_path: go on from this checkpoint; `last`: the newest of the run; `auto`: the same if there is one, else a new run.
        rollouts_every: write rollouts each N steps; 0: never.
        pictures_every: show a group in TensorBoard each N steps, on one axis and as text; 0: never.
        strict_memory: refuse a run whose plan (python -m taro.run.memory_plan) takes more memory than each GPU has.
    """

    name: str = "run"
    output_dir: str = "outputs"
    stage: Literal["grpo", "sft"] = "grpo"
    ckpt_path: str | None = None
    rollouts_every: NonNegativeInt = 1
    pictures_every: NonNegativeInt = 20
    strict_memory: bool = False


class TrainParser(OneLineErrors, LightningArgumentParser):
    """Lightning's, with mistakes in one line."""


class TaroCLI(LightningCLI):
    """Adds the run's folder, the shared settings and the callbacks that every run has."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunSettings)
        parser.add_lightning_class_args(CurriculumCallback, "curriculum")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(FailureLimit, "failure_limit")
        parser.add_lightning_class_args(ProgressBar, "progress_bar")
        parser.add_lightning_class_args(ProgressLines, "progress_lines")
        parser.link_arguments("model.name_or_path", "data.name_or_path")
        parser.link_arguments("model.group_size", "data.group_size")
        parser.link_arguments("model.sampling.max_tokens", "data.max_completion_tokens")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: 0 if seed is True else int(seed))
        parser.link_arguments(
            ("output_dir", "name"), "checkpoint.folder", compute_fn=lambda root, name: str(Path(root, name, "checkpoints"))
        )
        parser.link_arguments(
            ("output_dir", "name"), "failure_limit.folder", compute_fn=lambda root, name: str(Path(root, name))
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str]) -> None:
        """And check them: before Lightning seeds and makes anything."""
        self.config = parser.parse_args(args)
        if self.config.stage == "sft":
            self.config.curriculum.warmup_epochs = 0.0  # nothing is constructed
        refuse(list_problems(self.config))
        for note in list_notes(self.config):
            rank_zero_info(f"note: {note}")
        self._place_loggers()

    def _place_loggers(self) -> None:
        """TensorBoard's is made with the run's folder; others write there, too, unless they are told where."""
        if self.config.trainer.logger in (None, True):  # Lightning would make one elsewhere
            self.config.trainer.logger = False
        for logger in as_list(self.config.trainer.logger or None):
            arguments = logger.get("init_args") or {}
            if "save_dir" in arguments and arguments["save_dir"] in (None, "."):
                arguments["save_dir"] = str(self.folder)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            found = re.search(r"Problem with given class_path '([^']+)':\s+(.*?)(?:\n *- |\Z)", str(error), re.DOTALL)
            if found is None:
                raise
            raise ConfigError(f"{found[1]} can't be made: {one_line(found[2])}") from None

    @property
    def folder(self) -> Path:
        return run_folder(self.config)

    def check_samples(self) -> None:
        """Log what is odd about the samples, when they are read. Raises SampleError where there is nothing to train on."""
        data, config = self.datamodule, self.config
        if config.stage == "sft":
            check_traces(data.drawn_samples, data.files["train"])
        remarks = check_samples(
            data.samples | {"train": data.drawn_samples},
            data.files,
            data.video_root,
            warmup_epochs=config.curriculum.warmup_epochs,
            largest_share=config.failure_limit.largest_share,
        )
        if rank_zero_only.rank == 0:
            for remark in remarks:
                logger.warning(remark)

    @cached_property
    def checkpoint(self) -> Path | None:
        """To go on from, read and found whole; None for a new run. Raises as `find_checkpoint`."""
        return find_checkpoint(self.config.ckpt_path, Path(self.config.checkpoint.folder))

    @cached_property
    def plan(self) -> Plan:
        """Of the steps; known when the samples are read."""
        return Plan.of(self.trainer, self.datamodule, self.model)

    def check_plan(self) -> None:
        """Raises ConfigError where settings do not fit the number of steps, or the tasks of the samples."""
        validated = [sample.task for sample in self.datamodule.samples["validation"]]
        refuse(list_plan_problems(self.config, self.plan, validated))

    @cached_property
    def resume_point(self) -> ResumePoint | None:
        """Where the run goes on, None for a new run.

        Raises:
            CheckpointError: the checkpoint is damaged, or not one of `train.py`.
            ConfigError: it does not fit the settings.
        """
        if self.checkpoint is None:
            return None
        point = ResumePoint.read(self.checkpoint)
        named = self.config.ckpt_path not in ("last", "auto")
        misfits = list_misfits(point, identity_of(self.model, self.datamodule), Path(self.config.checkpoint.folder), named)
        if point.step > self.plan.steps_by_epochs:
            epochs = f"trainer.max_epochs = {self.plan.max_epochs}"
            misfits.append(f"{epochs} ends before the checkpoint's step {point.step}: raise it")
        if self.config.model.rollouts_ahead and not self.plan.is_over(point.step, point.optimizer_steps):
            misfits.append(
                "model.rollouts_ahead = 1: no checkpoint has the rollouts that were being made, so that the run would not be "
                "the same; set it to 0 to go on without, or begin a new run"
            )
        refuse(misfits, f"the run can't go on from {point.path}")
        return point

    def fit(self) -> None:
        """Train, from the checkpoint where there is one."""
        self.trainer.checkpoint_callback.resume_from = self.checkpoint
        self.trainer.fit(self.model, self.datamodule)


class SettingsAlone(TaroCLI):
    """Its `config`, of which nothing is checked or made."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str]) -> None:
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        pass


def with_save_dir(arguments: Sequence[str]) -> list[str]:
    """The same arguments; a logger that can't be made without a folder gets the run's, unless it is told another."""
    text = " ".join(arguments).replace("=", " ")
    named = re.search(r"--trainer\.logger (?:\S+\.)?(?:CSVLogger|TensorBoardLogger)\b", text)
    return [*arguments, *(["--trainer.logger.save_dir=."] if named and "save_dir" not in text else [])]


def find_stage(files: Sequence[str], flags: Sequence[str]) -> type[GRPOModule]:
    """The module of the stage that a flag, or else the last of the files that names one, asks for; of one that there isn't,
    any: the parser says so."""
    named = [TRAIN.load(file).get("stage") for file in files]
    named += re.findall(r"(?:^| )--stage[ =](\S+)", " ".join(flags))
    return STAGES.get(next((stage for stage in reversed(named) if stage is not None), None), GRPOModule)


def parse(arguments: Sequence[str] | None = None, kind: type[TaroCLI] = TaroCLI) -> TaroCLI:
    """The CLI with model, data and trainer made from `arguments`; without `--config`, those of the tiny run.

    Raises:
        SystemExit: help was asked for, or there is no such setting.
        ConfigError: settings that can't work.
    """
    files, others = answer_at_once(TRAIN, sys.argv[1:] if arguments is None else arguments)
    arguments = [*(f"--config={file}" for file in files or [DEFAULT_CONFIG]), *with_save_dir(others)]
    return kind(
        find_stage(files, others),
        GroundingDataModule,
        args=arguments,
        run=False,
        auto_configure_optimizers=False,
        save_config_callback=None,
        load_from_checkpoint_support=False,  # by which Lightning words the whole configuration once more
        parser_class=TrainParser,
        parser_kwargs={"prog": TRAIN.program, "parser_mode": "omegaconf", "default_config_files": [str(BASE_CONFIG)]},
    )


def resolved_config(cli: TaroCLI) -> str:
    """The whole configuration as YAML, every default spelled out."""
    config: Any = cli.config
    return cli.parser.dump(config, skip_unset=False)
