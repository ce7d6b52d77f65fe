"""When checkpoints are written, and which of them are kept."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import distributed
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import CheckpointException

from taro.distributed import gather
from taro.files import PART, link, publish, remove, remove_parts, write_text
from taro.models.checkpoint import CheckpointError, start_folder, write_folder
from taro.models.strategy import ShardedStrategy
from taro.progress import steps_done
from taro.ranges import NonNegativeInt, PositiveInt
from taro.rl.module import GRPOModule
from taro.run.checkpoint_files import BEST, LAST, checkpoint_path, list_checkpoints, set_aside, write_file, write_manifest
from taro.run.failures import TooManyFailures
from taro.run.resume import KEY, identity_of
from taro.run.stopping import RunStopped

SCORES = "scores.json"
RAISED_BY_ALL = (RunStopped, TooManyFailures, FloatingPointError)  # ranks together, after a whole step


class Checkpoints(Checkpoint):
    """Saves before each validation, each `every_n_steps` steps, at the end, and where training is cut short.

    A validation's score is written to `scores.json` when it is over; of a run that is killed before that, the checkpoint is
    there already, and going on starts with the validation. Links `last.ckpt` and `best.ckpt` show which file is which.

    Args:
        folder: of the checkpoints (follows `output_dir` and `name`).
        monitor: what a validation logs and the best step is chosen by; step 0 is the base model, which has no checkpoint.
        mode: whether more of it is better (`max`), or less (`min`).
        keep_last: newest checkpoints that are kept.
        keep_best: best checkpoints that are kept; one that is also among the last takes no room of its own.
        every_n_steps: save after so many steps, too; None: only before validations.
        asynchronous: write while training goes on, from a copy in the host's memory.
    """

    def __init__(
        self,
        folder: str,
        monitor: str = "vtg/mIoU",
        mode: Literal["max", "min"] = "max",
        keep_last: PositiveInt = 2,
        keep_best: NonNegativeInt = 1,
        every_n_steps: PositiveInt | None = None,
        asynchronous: bool = False,
    ) -> None:
        self.folder, self.monitor, self.mode = Path(folder), monitor, mode
        self.keep_last, self.keep_best, self.every_n_steps = keep_last, keep_best, every_n_steps
        self.asynchronous = asynchronous
        self.writer: BackgroundWriter | None = None
        self.pending: tuple[Path, Path, Future] | None = None  # what is being written: its name, its name until then
        self.saved_step = 0  # there is nothing to save before the first step
        self.validation_due = False  # of the step that a run goes on from
        self.scores: dict[int, float] = {}  # by step
        self.identity: dict[str, Any] | None = None

    # When

    def on_train_start(self, trainer: L.Trainer, module: GRPOModule) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_future()
        if self.saved_step > 0:
            self._settle(trainer)  # a killed run may not have come to it
            self._go_on(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, module: GRPOModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.pending is not None and all(gather(self.pending[-1].done())):
            self.finish(trainer)
        if self.every_n_steps and steps_done(trainer) % self.every_n_steps == 0:
            self.save(trainer)

    def on_validation_start(self, trainer: L.Trainer, module: GRPOModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: GRPOModule) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.scores[steps_done(trainer)] = float(trainer.callback_metrics[self.monitor])
        self.validation_due = False
        self._on_all_ranks(self.folder / SCORES, partial(self._settle, trainer))

    def on_train_end(self, trainer: L.Trainer, module: GRPOModule) -> None:
        self.save(trainer)
        self.finish(trainer)

    def on_exception(self, trainer: L.Trainer, module: GRPOModule, exception: BaseException) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not trainer.optimizers or isinstance(exception, CheckpointError):
            return
        # In the middle of an update the weights belong to no step: the checkpoint from before is the one to go on from.
        in_update = module.updated_step > steps_done(trainer)
        if trainer.world_size == 1 or isinstance(exception, RAISED_BY_ALL):
            if not in_update:
                self.save(trainer)
            self.finish(trainer)
        elif not isinstance(trainer.strategy, ShardedStrategy):
            self._finish_alone(trainer)
            if not in_update:
                self._save_alone(trainer)

    # What

    def on_save_checkpoint(self, trainer: L.Trainer, module: GRPOModule, checkpoint: dict[str, Any]) -> None:
        """Counters of a run that has done whole steps and nothing else, wherever in its loops it was."""
        step = steps_done(trainer)
        self.identity = self.identity or identity_of(module, trainer.datamodule)
        checkpoint[KEY] = {"step": step, "validation_due": self._is_validation_due(trainer), "identity": self.identity}
        epoch, in_epoch = divmod(step, int(trainer.num_training_batches))
        loops = checkpoint["loops"]["fit_loop"]
        for counts in loops["epoch_progress"].values():
            counts.update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)
        batches = loops["epoch_loop.batch_progress"]
        batches["is_last_batch"] = False
        for name, count in (("total", step), ("current", in_epoch)):
            batches[name].update(ready=count, started=count, processed=count, completed=count)
        # A validation in its first batch: where one is due, Lightning begins with it.
        for counts in (validation := loops["epoch_loop.val_loop.batch_progress"])["total"], validation["current"]:
            counts.update(ready=1, started=1, processed=0, completed=0)
        # What was measured before training is nothing that a run which goes on has done.
        for name in ("validate_loop", "test_loop"):
            outside = checkpoint["loops"][name]["batch_progress"]
            outside["is_last_batch"] = False
            for counts in outside["total"], outside["current"]:
                counts.update(dict.fromkeys(counts, 0))

    def on_load_checkpoint(self, trainer: L.Trainer, module: GRPOModule, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint[KEY]
        self.saved_step = stored["step"]
        self.scores = {step: score for step, score in self._read_scores().items() if step <= self.saved_step}
        self.validation_due = stored["validation_due"] and self.saved_step not in self.scores

    def _is_validation_due(self, trainer: L.Trainer) -> bool:
        """Of the step that is over, unless the next one has begun."""
        loop, count = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.batch_progress.total
        begun = count.ready > count.processed
        return not begun and count.processed not in self.scores and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)

    def _go_on(self, trainer: L.Trainer) -> None:
        """Lightning's loop begins with the validation of the last step, or leaves it out, where it takes one to be due; in both
        cases it counts a step of the log."""
        loop = trainer.fit_loop.epoch_loop
        if not self.validation_due:
            loop.val_loop.reset_restart_stage()
        loop._batches_that_stepped = self.saved_step - loop._should_check_val_fx(trainer.fit_loop._data_fetcher)

    # How

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint of the steps that are over, unless there is one. Called by all ranks.

        Raises:
            CheckpointError: it can't be written, on all ranks; those from before are as they were.
        """
        step = steps_done(trainer)
        if step == self.saved_step:
            return
        self.finish(trainer)
        path = checkpoint_path(self.folder, step)
        part = path.with_name(f"{path.name}{PART}")
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        self.saved_step = step
        if self.asynchronous:
            self.writer = self.writer or BackgroundWriter()
            self.pending = path, part, self.writer.start(trainer, part, checkpoint)
        else:
            self._complete(trainer, path, part, partial(_write, trainer, part, checkpoint))

    def finish(self, trainer: L.Trainer) -> None:
        """Wait for a checkpoint that is being written. Called by all ranks; raises as `save`."""
        if self.pending is not None:
            path, part, written = self.pending
            self.pending = None
            self._complete(trainer, path, part, written.result)

    def _complete(self, trainer: L.Trainer, path: Path, part: Path, write: Callable[[], Any]) -> None:
        try:
            self._on_all_ranks(path, write)
            if isinstance(trainer.strategy, ShardedStrategy):
                self._on_all_ranks(path, partial(write_manifest, part))
        except CheckpointError:
            if trainer.is_global_zero:
                remove(part)
            raise
        self._on_all_ranks(path, partial(self._publish, trainer, part, path))

    def _publish(self, trainer: L.Trainer, part: Path, path: Path) -> None:
        if trainer.is_global_zero:
            publish(part, path)
        self._settle(trainer)

    def _finish_alone(self, trainer: L.Trainer) -> None:
        """Other ranks don't come here with this one, which must not wait for them."""
        if self.pending is not None and trainer.is_global_zero:
            path, part, written = self.pending
            written.result()
            publish(part, path)
            link(path, LAST)

    def _save_alone(self, trainer: L.Trainer) -> None:
        step = steps_done(trainer)
        if step != self.saved_step:
            path = checkpoint_path(self.folder, step)
            part = path.with_name(f"{path.name}{PART}{trainer.global_rank}")
            write_file(part, trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
            publish(part, path)
            link(path, LAST)
            self.saved_step = step

    def _on_all_ranks(self, path: Path, action: Callable[[], None]) -> None:
        """Do it on each rank; what keeps one of them from it is an error on all.

        Raises:
            CheckpointError: names `path`, the reason, and the checkpoint that there is.
        """
        error = None
        try:
            action()
        except (OSError, RuntimeError, CheckpointException) as caught:  # PyTorch reports a full disk as a RuntimeError
            error = caught
        reasons = [reason for reason in gather(None if error is None else _reason(error)) if reason is not None]
        if reasons:
            kept = list(list_checkpoints(self.folder).values())
            left = f"the newest whole checkpoint is {kept[-1]}" if kept else "there is no earlier checkpoint"
            raise CheckpointError(f"{path} can't be written ({reasons[0]}): {left}") from error

    # Which

    @property
    def best_step(self) -> int | None:
        """Of those that there are, step 0 among them; None where nothing was validated."""
        best = self._best([0, *list_checkpoints(self.folder)])
        return best[0] if best else None

    def read_earlier_scores(self) -> None:
        """Those in the run's folder, for a validation before its checkpoint is loaded."""
        self.scores = self._read_scores()

    def _best(self, steps: Iterable[int]) -> list[int]:
        """The steps whose validation is over, best first, of equal ones the later."""
        sign = -1 if self.mode == "max" else 1
        scored = [step for step in steps if not math.isnan(self.scores.get(step, math.nan))]
        return sorted(scored, key=lambda step: (sign * self.scores[step], -step))

    def _settle(self, trainer: L.Trainer) -> None:
        """Write down the scores, show which checkpoints are the last and the best, and delete those that are neither."""
        if not trainer.is_global_zero:
            return
        write_text(self.folder / SCORES, json.dumps({"monitor": self.monitor, "scores": self.scores}, indent=1) + "\n")
        paths = list_checkpoints(self.folder)
        last, best = list(paths)[-self.keep_last :], self._best(paths)[: self.keep_best]
        for name, steps in ((LAST, last[-1:]), (BEST, best[:1])):
            if steps:
                link(paths[steps[0]], name)
        for step in paths.keys() - {*last, *best}:
            remove(paths[step])

    def _clear_future(self) -> None:
        """What a killed run left behind, and checkpoints of later steps, which are damaged ones, or this run would go on from
        them."""
        remove_parts(self.folder)
        for step, path in list_checkpoints(self.folder).items():
            if step > self.saved_step:
                set_aside(path)

    def _read_scores(self) -> dict[int, float]:
        path = self.folder / SCORES
        if not path.is_file():
            return {}
        stored = json.loads(path.read_text())
        return {int(step): score for step, score in stored["scores"].items() if stored["monitor"] == self.monitor}


class BackgroundWriter:
    """Writes checkpoints in a thread, sharded ones through a process group of their own."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.group: ProcessGroup | None = None

    def start(self, trainer: L.Trainer, part: Path, checkpoint: dict[str, Any]) -> Future:
        """Returns when training may go on. Called by all ranks."""
        if isinstance(trainer.strategy, ShardedStrategy):
            self.group = self.group or distributed.new_group(backend="gloo")
            return start_folder(part, checkpoint, self.group)
        copied = _on_host(checkpoint) if trainer.is_global_zero else {}
        return self.thread.submit(_write, trainer, part, copied)


def _on_host(value: Any) -> Any:
    """A copy with all tensors in the host's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    return [_on_host(item) for item in value] if isinstance(value, list) else copy.copy(value)


def _write(trainer: L.Trainer, part: Path, checkpoint: dict[str, Any]) -> None:
    if isinstance(trainer.strategy, ShardedStrategy):
        write_folder(part, checkpoint)
    elif trainer.is_global_zero:
        write_file(part, checkpoint)


def _reason(error: BaseException) -> str:
    """The system's own words, where it was the system."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = " ".join(f"{type(error).__name__} {error}".split())
    # Of another rank's error only its text arrives, which for PyTorch's writer does not say what was wrong.
    return f"no space left, or another error of the file system: {text}" if "inline_container" in text else text

