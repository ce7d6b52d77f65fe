"""Train, from a config to a model folder:

    python train.py                                          # the tiny run, on a CPU
    python train.py --config configs/qwen25_7b.yaml --model.group_size 16
    python train.py --help
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from taro.cli import ConfigError, TaroCLI, parse, resolved_config
from taro.data.samples import SampleError
from taro.models.export import export_policy, load_policy_weights
from taro.models.families import ModelError
from taro.progress import steps_done
from taro.rl.checkpoint import LastCheckpoint
from taro.rl.records import RunRecords
from taro.rl.rollout import EngineError, SeamError
from taro.run_folder import make_summary, prepare_folder, print_summary, write_environment, write_summary

warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)`.*")
warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode.*")  # nothing here depends on it
warnings.filterwarnings("ignore", message=r".*your dataloader is not resumable.*")  # taro's goes on with the next sample
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip: " not in record.getMessage())


def main(arguments: Sequence[str] | None = None) -> dict:
    """Metrics before, training, metrics after with the best checkpoint, export; returns the summary."""
    cli = parse(arguments)
    cli.datamodule.setup("fit")  # bad rows are reported before anything is written
    folder, resuming = cli.folder, cli.config.ckpt_path is not None
    prepare_folder(folder, resuming)
    write_environment(folder, resolved_config(cli))
    cli.trainer.logger = TensorBoardLogger(folder.parent, name=folder.name, version="")
    cli.trainer.callbacks += [RunRecords(folder, cli.config.rollouts_every), LastCheckpoint(folder / "checkpoints")]
    return run(cli, folder)


def run(cli: TaroCLI, folder: Path) -> dict:
    trainer, module, data = cli.trainer, cli.model, cli.datamodule
    testing = data.files["test"] is not None
    started = time.time()
    before = trainer.test(module, data, verbose=False)[0] if testing else {}
    trainer.fit(module, data, ckpt_path=cli.checkpoint)
    seconds = time.time() - started
    best = trainer.checkpoint_callback.best_model_path
    if best:
        load_policy_weights(module.policy, best)
    after = trainer.test(module, data, verbose=False)[0] if testing else {}
    if trainer.is_global_zero:
        export_policy(module.policy, module.name_or_path, folder / "hf", data.grounding)
    summary = make_summary(before, after, steps_done(trainer), seconds)
    write_summary(folder, summary)
    return summary


if __name__ == "__main__":
    try:
        print_summary(main())
    except (ConfigError, SampleError, ModelError, EngineError, SeamError) as error:
        sys.exit(f"error: {error}")
