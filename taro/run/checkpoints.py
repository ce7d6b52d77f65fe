"""When checkpoints are written, and which of them are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import CheckpointException

from taro.distributed import cpu_group, gather
from taro.files import PART, link, publish, remove, remove_parts, write_text
from taro.models.checkpoint import CheckpointError, begin, named_tensors, read_into, reason, write, write_meanwhile
from taro.models.sharding import ShardedStrategy
from taro.progress import Plan, steps_done
from taro.ranges import NonNegativeInt, PositiveInt
from taro.rl.module import GRPOModule
from taro.run.checkpoint_files import BEST, DAMAGED, LAST, checkpoint_path, list_checkpoints
from taro.run.failures import TooManyFailures
from taro.run.fit_loop import start_after, validate_now, validation_is_next
from taro.run.resume import ResumePoint, describe_run
from taro.run.stopping import RunStopped

SCORES = "scores.json"
RAISED_BY_ALL = (RunStopped, TooManyFailures, FloatingPointError)  # ranks together, after a whole step


class Checkpoints(Checkpoint):
    """Saves before each validation, each `every_n_steps` steps, at the end, and where training is cut short.

    A validation's score is written to `scores.json` when it is over; of a run that is killed before that, the checkpoint is
    there already, and going on starts with the validation. Links `last.ckpt` and `best.ckpt` show which file is which.

    Args:
        folder: of the checkpoints (follows `output_dir` and `name`).
        monitor: what a validation logs and the best step, that with most of it, is chosen by; step 0 is the base model, which
            has no checkpoint.
        keep_last: newest checkpoints that are kept.
        keep_best: best checkpoints that are kept; one that is also among the last takes no room of its own.
        every_n_steps: save after so many steps, too; None: only before validations.
        asynchronous: write while training goes on, from a copy in the host's memory.
    """

    def __init__(
        self,
        folder: str,
        monitor: str = "vtg/mIoU",
        keep_last: PositiveInt = 2,
        keep_best: NonNegativeInt = 1,
        every_n_steps: PositiveInt | None = None,
        asynchronous: bool = False,
    ) -> None:
        self.folder, self.monitor = Path(folder), monitor
        self.keep_last, self.keep_best, self.every_n_steps = keep_last, keep_best, every_n_steps
        self.asynchronous = asynchronous
        self.resume_from: Path | None = None  # set before training
        self.group: ProcessGroup | None = None  # of all ranks, where there are several
        self.pending: tuple[Path, Future] | None = None  # what is being written
        self.saved_step = 0  # there is nothing to save before the first step
        self.validation_due = False  # of the step that a run goes on from
        self.scores: dict[int, float] = {}  # by step
        self.described: dict[str, Any] = {}  # the run, as each checkpoint says it

    # When

    def on_fit_start(self, trainer: L.Trainer, module: GRPOModule) -> None:
        """Weights and optimizer are there, and the loop has not begun."""
        self.described = self.described or describe_run(module, trainer.datamodule)
        if self.resume_from is not None:
            self._resume(trainer, module, ResumePoint.read(self.resume_from))

    def _resume(self, trainer: L.Trainer, module: GRPOModule, point: ResumePoint) -> None:
        (optimizer,) = trainer.optimizers
        read_into(point.path, module.policy.trained_weights(), optimizer)
        for callback in trainer.callbacks:
            if callback.state_key in point.callbacks:
                callback.load_state_dict(point.callbacks[callback.state_key])
        self.saved_step = point.step
        self.read_scores(last=point.step)
        self.validation_due = point.validation_due and point.step not in self.scores
        start_after(trainer, point.step, point.optimizer_steps, Plan.of(trainer, trainer.datamodule, module).steps_per_epoch)

    def on_train_start(self, trainer: L.Trainer, module: GRPOModule) -> None:
        if trainer.is_global_zero:
            self._clear_future()
        if self.saved_step > 0:
            self._settle(trainer)  # a killed run may not have come to it
        if self.validation_due:
            validate_now(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, module: GRPOModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.pending is not None and all(gather(self.pending[-1].done())):
            self.finish(trainer)
        if self.every_n_steps and steps_done(trainer) % self.every_n_steps == 0:
            self.save(trainer)

    def on_validation_start(self, trainer: L.Trainer, module: GRPOModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: GRPOModule) -> None:
        self.scores[steps_done(trainer)] = float(trainer.callback_metrics[self.monitor])
        self.validation_due = False
        self._on_all_ranks(trainer, self.folder / SCORES, partial(self._settle, trainer))

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
            self._save_alone(trainer, in_update)

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
        about = self._describe(trainer) if trainer.is_global_zero else None
        self._on_all_ranks(trainer, path, partial(begin, _part(path), about))
        self.saved_step, self.group = step, cpu_group(self.group)
        if self.asynchronous:
            self.pending = path, write_meanwhile(_part(path), self._tensors(trainer), self.group)
        else:
            self._complete(trainer, path, partial(write, _part(path), self._tensors(trainer), self.group))

    def finish(self, trainer: L.Trainer) -> None:
        """Wait for a checkpoint that is being written. Called by all ranks; raises as `save`."""
        if self.pending is not None:
            (path, written), self.pending = self.pending, None
            self._complete(trainer, path, written.result)

    def _describe(self, trainer: L.Trainer) -> dict[str, Any]:
        """What is no tensor: a run that has done whole steps and nothing else, wherever in its loops it is."""
        step = steps_done(trainer)
        return {
            "step": step,
            "optimizer_steps": trainer.global_step,
            "validation_due": step not in self.scores and validation_is_next(trainer),
            "callbacks": {one.state_key: state for one in trainer.callbacks if (state := one.state_dict())},
            **self.described,
        }

    def _tensors(self, trainer: L.Trainer) -> dict[str, Tensor]:
        (optimizer,) = trainer.optimizers
        return named_tensors(trainer.lightning_module.policy.trained_weights(), optimizer)

    def _complete(self, trainer: L.Trainer, path: Path, write: Callable[[], Any]) -> None:
        self._on_all_ranks(trainer, path, write)
        self._on_all_ranks(trainer, path, partial(self._publish, trainer, path))

    def _publish(self, trainer: L.Trainer, path: Path) -> None:
        if trainer.is_global_zero:
            publish(_part(path), path)
        self._settle(trainer)

    def _on_all_ranks(self, trainer: L.Trainer, path: Path, action: Callable[[], Any]) -> None:
        """Do it on each rank; what keeps one of them from it is an error on all. Of what can't be written whole nothing stays.

        Raises:
            CheckpointError: names `path`, the reason, and the checkpoint that there is.
        """
        error = None
        try:
            action()
        except (OSError, RuntimeError, TypeError, CheckpointException) as caught:  # a full disk may be a RuntimeError
            error = caught
        reasons = [text for text in gather(None if error is None else reason(error)) if text is not None]
        if reasons:
            if trainer.is_global_zero:
                remove(_part(path))
            kept = list(list_checkpoints(self.folder).values())
            left = f"the newest whole checkpoint is {kept[-1]}" if kept else "there is no earlier checkpoint"
            raise CheckpointError(f"{path} can't be written ({reasons[0]}): {left}") from error

    def _save_alone(self, trainer: L.Trainer, in_update: bool) -> None:
        """Other ranks don't come here with this one, which must not wait for their training; what they write goes on."""
        if self.pending is not None:
            path, written = self.pending
            written.result()
            if trainer.is_global_zero:
                publish(_part(path), path)
                link(path, LAST)
        step = steps_done(trainer)
        path = checkpoint_path(self.folder, step)
        if in_update or step == self.saved_step or path.exists():
            return
        part = path.with_name(f"{path.name}{PART}{trainer.global_rank}")
        begin(part, self._describe(trainer))
        write(part, self._tensors(trainer), None, alone=True)
        try:
            publish(part, path)
        except OSError:
            if not path.exists():
                raise
            remove(part)  # another rank has written the same meanwhile
        link(path, LAST)

    # Which

    @property
    def best_step(self) -> int | None:
        """Of those that there are, step 0 among them; None where nothing was validated."""
        return next(iter(self._best([0, *list_checkpoints(self.folder)])), None)

    def read_scores(self, last: float = math.inf) -> None:
        """Those in the run's folder, of this metric and up to the step `last`."""
        path = self.folder / SCORES
        stored = json.loads(path.read_text()) if path.is_file() else {"monitor": None, "scores": {}}
        scores = {int(step): score for step, score in stored["scores"].items() if int(step) <= last}
        self.scores = scores if stored["monitor"] == self.monitor else {}

    def _best(self, steps: Iterable[int]) -> list[int]:
        """The steps whose validation is over, best first, of equal ones the later."""
        scored = [step for step in steps if not math.isnan(self.scores.get(step, math.nan))]
        return sorted(scored, key=lambda step: (self.scores[step], step), reverse=True)

    def _settle(self, trainer: L.Trainer) -> None:
        """Write down the scores, show which checkpoints are the last and the best, and delete those that are neither."""
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
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
                publish(path, path.with_name(f"{path.name}{DAMAGED}"))


def _part(path: Path) -> Path:
    """Its name until it is whole."""
    return path.with_name(f"{path.name}{PART}")
