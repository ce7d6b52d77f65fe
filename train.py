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
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from taro.checkpoint_folder import CheckpointError
from taro.cli import TaroCLI, parse, resolved_config
from taro.config_check import ConfigError
from taro.data.samples import SampleError
from taro.models.export import export_policy, load_policy_weights
from taro.models.families import ModelError
from taro.progress import steps_done
from taro.rl.failures import TooManyFailures
from taro.rl.records import RunRecords
from taro.rl.rollout import EngineError, SeamError
from taro.rl.stopping import RunStopped, StopOnSignal
from taro.rl.watch import SignalWatch
from taro.run_folder import (
    drop_records_after,
    make_summary,
    prepare_folder,
    print_finished,
    print_summary,
    read_summary,
    write_environment,
    write_summary,
)

warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)`.*")
warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode.*")  # nothing here depends on it
warnings.filterwarnings("ignore", message=r".*your dataloader is not resumable.*")  # taro's goes on with the next sample
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip: " not in record.getMessage())


def main(arguments: Sequence[str] | None = None) -> dict:
    """Metrics before, training, metrics after with the best checkpoint, export; returns the summary."""
    cli = parse(arguments)
    cli.datamodule.setup("fit")  # bad rows are reported before anything is written
    folder, point = cli.folder, cli.resume_point()
    if point is not None and cli.plan.is_over(point.step, point.optimizer_steps):
        print_finished(folder, point.step, cli.plan)
        summary = read_summary(folder, point.step, tested=cli.datamodule.files["test"] is not None)
        if summary is not None:
            return summary
    cli.check_samples()
    own = point is not None and point.path.resolve().parent == Path(cli.config.checkpoint.folder).resolve()
    prepare_folder(folder, resuming=own)
    if own:
        drop_records_after(folder, point.step)
    write_environment(folder, resolved_config(cli))
    purge_step = None if point is None else point.step  # of the log: steps that are made again
    cli.trainer.logger = TensorBoardLogger(folder.parent, name=folder.name, version="", purge_step=purge_step)
    # A checkpoint of a step is written after its rollouts; where a signal ends the run, the step's checkpoint comes first.
    records = RunRecords(folder, cli.config.rollouts_every)
    cli.trainer.callbacks = [records, SignalWatch(), *cli.trainer.callbacks, StopOnSignal()]
    return run(cli, folder)


def run(cli: TaroCLI, folder: Path) -> dict:
    trainer, module, data, checkpoints = cli.trainer, cli.model, cli.datamodule, cli.trainer.checkpoint_callback
    testing = data.files["test"] is not None
    started = time.time()
    before = trainer.test(module, data, verbose=False)[0] if testing else {}
    trainer.fit(module, data, ckpt_path=cli.checkpoint)
    if checkpoints.validation_due:  # of the last step of a run that is over
        trainer.validate(module, data, verbose=False)
    seconds = time.time() - started
    if checkpoints.best_path is not None:
        load_policy_weights(module.policy, checkpoints.best_path)
    after = trainer.test(module, data, verbose=False)[0] if testing else {}
    export_policy(module.policy, module.name_or_path, folder / "hf", data.grounding)
    summary = make_summary(before, after, steps_done(trainer), seconds)
    write_summary(folder, summary)
    return summary


if __name__ == "__main__":
    try:
        print_summary(main())
    except (ConfigError, SampleError, ModelError, EngineError, SeamError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    except TooManyFailures as error:  # on all ranks
        sys.exit(f"error: {error}" if rank_zero_only.rank == 0 else 0)
    except FloatingPointError as error:
        sys.exit(f"error: {error}")
    except RunStopped as stop:
        if rank_zero_only.rank != 0:
            sys.exit(0)  # Lightning kills rank 0 as soon as another rank ends with an error
        print(f"{stop}; the same command with --ckpt_path last (or auto) goes on from there", file=sys.stderr)
        sys.exit(stop.exit_code)
