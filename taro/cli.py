"""The command line of `train.py`: LightningCLI with every default in `configs/base.yaml`, and a check of the whole
configuration before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from taro.data.datamodule import GroundingDataModule
from taro.models.families import ModelError, load_config, torch_dtype
from taro.prompts import build_request
from taro.rl.curriculum import CurriculumCallback
from taro.rl.module import GRPOModule

CONFIGS = Path(__file__).parent.parent / "configs"
BASE_CONFIG = CONFIGS / "base.yaml"
DEFAULT_CONFIG = CONFIGS / "tiny.yaml"


class ConfigError(ValueError):
    """Settings that can't work together; lists all of them."""


class TaroCLI(LightningCLI):
    """Adds the run's folder, the shared settings and the callbacks that every run has."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="run", help="of the run; its folder is <output_dir>/<name>")
        parser.add_argument("--output_dir", type=str, default="outputs", help="folder of all runs")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="resume from this checkpoint, or `last`")
        parser.add_argument("--rollouts_every", type=int, default=1, help="write rollouts each N steps; 0: never")
        parser.add_lightning_class_args(CurriculumCallback, "curriculum")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(RichProgressBar, "progress_bar")
        parser.link_arguments("model.name_or_path", "data.name_or_path")
        parser.link_arguments("model.group_size", "data.group_size")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: 0 if seed is True else int(seed))
        parser.link_arguments(
            ("output_dir", "name"), "checkpoint.dirpath", compute_fn=lambda root, name: str(Path(root, name, "checkpoints"))
        )

    def before_instantiate_classes(self) -> None:
        problems = list_problems(self.config)
        if problems:
            raise ConfigError("the configuration can't work:\n" + "\n".join(f"- {problem}" for problem in problems))

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir, self.config.name)


def parse(arguments: Sequence[str] | None = None) -> TaroCLI:
    """The CLI with model, data and trainer made from `arguments`; without `--config`, those of the tiny run."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not any(argument.split("=")[0] in ("--config", "-c", "--help", "-h") for argument in arguments):
        arguments = ["--config", str(DEFAULT_CONFIG), *arguments]
    return TaroCLI(
        GRPOModule,
        GroundingDataModule,
        args=arguments,
        run=False,
        save_config_callback=None,
        parser_kwargs={"parser_mode": "omegaconf", "default_config_files": [str(BASE_CONFIG)]},
    )


def list_problems(config: Namespace) -> list[str]:
    """What can't work in this configuration, each with the setting to change. Nothing heavy is loaded for it."""
    problems: list[str] = []

    def require(condition: bool, text: str) -> None:
        if not condition:
            problems.append(text)

    model, data, trainer = config.model, config.data, config.trainer
    require(model.group_size >= 2, f"model.group_size = {model.group_size}: a group needs 2 completions or more to compare")
    require(data.prompts_per_step >= 1, f"data.prompts_per_step = {data.prompts_per_step}: must be 1 or more")
    require(model.sampling.temperature > 0, "model.sampling.temperature = 0: all completions of a group would be the same")
    require(
        model.rollout_rows >= model.group_size,
        f"model.rollout_rows = {model.rollout_rows} is below model.group_size = {model.group_size}: raise it",
    )
    require(model.loss.updates >= 1, f"model.loss.updates = {model.loss.updates}: must be 1 or more")
    require(model.loss.kl_coefficient >= 0, f"model.loss.kl_coefficient = {model.loss.kl_coefficient}: must be 0 or more")
    require(model.loss.dual_clip > 1, f"model.loss.dual_clip = {model.loss.dual_clip}: must be above 1")
    require(
        not trainer.accumulate_grad_batches or trainer.accumulate_grad_batches == 1,
        "trainer.accumulate_grad_batches: a step already accumulates its prompts; set data.prompts_per_step instead",
    )
    require(
        trainer.gradient_clip_val is None,
        "trainer.gradient_clip_val does nothing here: set model.optimizer.clip_norm",
    )
    devices = trainer.devices if isinstance(trainer.devices, int) and trainer.devices > 0 else 1
    ranks = devices * (trainer.num_nodes or 1)
    require(
        data.prompts_per_step % ranks == 0,
        f"data.prompts_per_step = {data.prompts_per_step} can't be shared by {ranks} ranks: make it a multiple",
    )
    temporal = model.temporal_reward
    if temporal is not None:
        require(temporal.radius > 0, f"model.temporal_reward.radius = {temporal.radius}: must be above 0 seconds")
    for name, check in (
        ("model.dtype", lambda: torch_dtype(model.dtype)),
        ("model.name_or_path", lambda: load_config(model.name_or_path)),
        ("data.grounding.prompt", lambda: build_request("check", data.grounding.prompt)),
    ):
        try:
            check()
        except (ModelError, ValueError) as error:
            problems.append(f"{name}: {error}")
    for name in ("train_file", "validation_file", "test_file"):
        file = data[name]
        require(
            file is None or Path(file).is_file(),
            f"data.{name} = {file}: no such file (python -m taro.data.synthetic --output data/synthetic makes the "
            "synthetic ones)",
        )
    if config.ckpt_path not in (None, "last"):
        require(Path(config.ckpt_path).exists(), f"ckpt_path = {config.ckpt_path}: no such checkpoint")
    return problems


def resolved_config(cli: TaroCLI) -> str:
    """The whole configuration as YAML, every default spelled out."""
    config: Any = cli.config
    return cli.parser.dump(config, skip_none=False)
