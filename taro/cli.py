"""The command line of `train.py`: LightningCLI with every default in `configs/base.yaml`, and a check of the whole
configuration before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from taro.config_check import ConfigError, list_problems, resumed_checkpoint, run_folder
from taro.data.datamodule import GroundingDataModule
from taro.rl.curriculum import CurriculumCallback
from taro.rl.module import GRPOModule

CONFIGS = Path(__file__).parent.parent / "configs"
BASE_CONFIG = CONFIGS / "base.yaml"
DEFAULT_CONFIG = CONFIGS / "tiny.yaml"


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
        auto_configure_optimizers=False,
        save_config_callback=None,
        parser_kwargs={"parser_mode": "omegaconf", "default_config_files": [str(BASE_CONFIG)]},
    )


def resolved_config(cli: TaroCLI) -> str:
    """The whole configuration as YAML, every default spelled out."""
    config: Any = cli.config
    return cli.parser.dump(config, skip_none=False)
