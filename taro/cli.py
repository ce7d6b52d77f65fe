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
        parser.link_arguments("model.sampling.max_tokens", "data.max_completion_tokens")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: 0 if seed is True else int(seed))
        parser.link_arguments(
            ("output_dir", "name"), "checkpoint.dirpath", compute_fn=lambda root, name: str(Path(root, name, "checkpoints"))
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str]) -> None:
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        problems = list_problems(self.config)
        if problems:
            raise ConfigError("the configuration can't work:\n" + "\n".join(f"- {problem}" for problem in problems))

    @property
    def folder(self) -> Path:
        return run_folder(self.config)

    @property
    def checkpoint(self) -> Path | None:
        """To resume from."""
        return resumed_checkpoint(self.config)


def run_folder(config: Namespace) -> Path:
    return Path(config.output_dir, config.name)


def resumed_checkpoint(config: Namespace) -> Path | None:
    if config.ckpt_path == "last":
        return run_folder(config) / "checkpoints" / "last.ckpt"
    return None if config.ckpt_path is None else Path(config.ckpt_path)


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
    ranks = count_devices(trainer.devices) * (trainer.num_nodes or 1)
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
    checkpoint = resumed_checkpoint(config)
    require(checkpoint is None or checkpoint.exists(), f"ckpt_path = {config.ckpt_path}: there is no {checkpoint}")
    return problems


def count_devices(devices: list[int] | str | int) -> int:
    """Of each node, 1 where it is left to Lightning (`auto`, -1). From the command line a number is text."""
    if isinstance(devices, str) and "," in devices:
        devices = [device for device in devices.split(",") if device.strip()]
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if str(devices).isdigit() and int(devices) > 0 else 1


def resolved_config(cli: TaroCLI) -> str:
    """The whole configuration as YAML, every default spelled out."""
    config: Any = cli.config
    return cli.parser.dump(config, skip_none=False)
