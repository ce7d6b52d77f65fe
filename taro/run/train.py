"""What `train.py` and `taro-train` do: from a config to a model folder."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from taro.errors import clean_exit
from taro.models.checkpoint import read_into
from taro.models.export import ExportError, export_command, export_policy
from taro.progress import steps_done
from taro.run.checkpoint_files import checkpoint_path
from taro.run.cli import TaroCLI, parse, resolved_config
from taro.run.failures import SignalWatch, TooManyFailures
from taro.run.folder import (
    lock_folder,
    prepare_folder,
    print_finished,
    print_next,
    print_summary,
    read_before,
    read_summary,
    write_before,
    write_summary,
)
from taro.run.pictures import TrainingPictures
from taro.run.records import RunRecords
from taro.run.resume import describe_test
from taro.run.stopping import RunStopped, StopOnSignal

warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)`.*")
warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode.*")  # nothing here depends on it
warnings.filterwarnings("ignore", message=r".*your dataloader is not resumable.*")  # taro's goes on with the next sample
GO_ON = "the same command with --ckpt_path auto goes on from there"
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip: " not in record.getMessage())


def main(arguments: Sequence[str] | None = None) -> dict:
    """Metrics before, training, metrics after with the best checkpoint, export; returns the summary."""
    cli = parse(arguments)
    cli.datamodule.setup("fit")  # bad rows are reported before anything is written
    cli.check_plan()
    with lock_folder(cli.folder):
        summary = finished(cli) or run(cli, prepare(cli))
        print_summary(summary)
        print_next(cli.folder, cli.datamodule.files["test"])
    return summary


def finished(cli: TaroCLI) -> dict | None:
    """The summary of a run of which nothing is left to be done."""
    point = cli.resume_point
    if point is None or not cli.plan.is_over(point.step, point.optimizer_steps):
        return None
    print_finished(cli.folder, point.step, cli.plan)
    return read_summary(cli.folder, point.step, tested=cli.datamodule.files["test"] is not None)


def prepare(cli: TaroCLI) -> bool:
    """The folder, loggers and callbacks of the run; returns whether it goes on in its own folder."""
    folder, point = cli.folder, cli.resume_point
    cli.check_samples()
    resuming = point is not None and point.path.parent == Path(cli.config.checkpoint.folder).resolve()
    prepare_folder(folder, resolved_config(cli), step=point.step if resuming else None)
    purge_step = None if point is None else point.step  # of the log: steps that are made again
    tensorboard = TensorBoardLogger(folder.parent, name=folder.name, version="", purge_step=purge_step)
    for logger in cli.trainer.loggers:  # the user's
        logger.log_hyperparams(cli.config.as_dict())
    cli.trainer.loggers = [tensorboard, *cli.trainer.loggers]
    # A checkpoint of a step is written after its rollouts; where a signal ends the run, the step's checkpoint comes first.
    supervised = cli.config.stage == "sft"  # there are no rollouts and no rewards
    records = RunRecords(folder, 0 if supervised else cli.config.rollouts_every)
    watching = [] if supervised else [TrainingPictures(cli.config.pictures_every), SignalWatch()]
    cli.trainer.callbacks = [records, *watching, *cli.trainer.callbacks, StopOnSignal()]
    return resuming


def run(cli: TaroCLI, resuming: bool) -> dict:
    folder, trainer, module, data = cli.folder, cli.trainer, cli.model, cli.datamodule
    checkpoints = trainer.checkpoint_callback
    started = time.time()
    before = measure_base(cli, resuming)
    cli.fit()
    steps = steps_done(trainer)
    if steps not in checkpoints.scores:
        trainer.validate(module, data, verbose=False)
    seconds = time.time() - started
    best = steps if checkpoints.best_step is None else checkpoints.best_step  # without validations it is the last
    path = checkpoint_path(checkpoints.folder, best)
    if best == 0:
        module.restore_base()
    elif best in checkpoints.scores:
        read_into(path, module.policy.trained_weights(), None)
    after = trainer.test(module, data, verbose=False)[0] if before and best > 0 else before
    try:
        export_policy(module.policy, module.name_or_path, folder / "hf", data.grounding)
    except ExportError as error:
        again = "the same command with --ckpt_path last" if best == 0 else export_command(path, folder / "hf")
        raise ExportError(f"{error}. The training is over and saved; with room, this makes it: {again}") from error
    scored = {"step": best, checkpoints.monitor: checkpoints.scores.get(best)}
    return write_summary(folder, before, after, scored, steps, seconds)


def measure_base(cli: TaroCLI, resuming: bool) -> dict:
    """The base model's metrics on the test file, empty without one; and its score in validation, which is that of step 0. A run
    that goes on has them from its beginning."""
    trainer, module, data, checkpoints = cli.trainer, cli.model, cli.datamodule, cli.trainer.checkpoint_callback
    before: dict = {}
    if resuming:
        checkpoints.read_scores()
    if data.files["test"] is not None:
        about = describe_test(module, data)
        before = (resuming and read_before(cli.folder, about)) or trainer.test(module, data, verbose=False)[0]
        write_before(cli.folder, about, before)
    if 0 not in checkpoints.scores:
        trainer.validate(module, data, verbose=False)
    return before


def command() -> None:
    """`train.py`, with what its user can cause in one line."""
    with clean_exit(FloatingPointError, MisconfigurationException, interrupted=f"stopped by Ctrl-C; {GO_ON}"):
        try:
            main()
        except TooManyFailures as error:  # on all ranks
            sys.exit(f"error: {error}" if rank_zero_only.rank == 0 else 0)
        except RunStopped as stop:
            if rank_zero_only.rank != 0:
                sys.exit(0)  # Lightning kills rank 0 as soon as another rank ends with an error
            print(f"{stop}; {GO_ON}", file=sys.stderr)
            sys.exit(stop.exit_code)


if __name__ == "__main__":
    command()
