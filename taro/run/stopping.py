"""Signals that ask a run to stop: SIGTERM and SIGUSR1, which schedulers send before they take a machine away, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from taro.distributed import gather
from taro.errors import interrupt
from taro.progress import steps_done

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class RunStopped(Exception):
    """Raised by all ranks together, after a whole step.

    Args:
        number: of the signal.
        step: that was the last.
    """

    def __init__(self, number: int, step: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name} after step {step}")

    @property
    def exit_code(self) -> int:
        return 128 + self.signal


class StopOnSignal(L.Callback):
    """Ends training after the step in which a signal reaches any rank, or after the batch of its validation. A second Ctrl-C
    ends it at once, and so does a signal outside of training, where nothing can be lost.

    It takes the place of Lightning's handlers: those start a collective, or write a checkpoint, wherever in a step they are.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that came, 0: none
        self.process = 0  # that takes signals; workers that it forks have its handlers, too
        self.shared_batches = 0  # of a validation, that all ranks have

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Lightning puts back what was there before when it is done."""
        if threading.current_thread() is threading.main_thread():
            self.process = os.getpid()
            for number in SIGNALS:
                signal.signal(number, lambda number, frame: self._handle(trainer, number, frame))

    on_test_start = on_train_start

    def on_validation_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.on_train_start(trainer)
        self.shared_batches = min(gather(sum(trainer.num_val_batches)))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        number = max(gather(self.number))
        if number:
            raise RunStopped(number, steps_done(trainer))

    on_validation_end = on_train_end = on_train_batch_end

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if batch_idx < self.shared_batches:
            self.on_train_batch_end(trainer)

    def _handle(self, trainer: L.Trainer, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a worker is told when to end
            return
        training = trainer.state.fn == TrainerFn.FITTING
        if number == signal.SIGINT and (self.number or not training):
            interrupt()
        if trainer.is_global_zero:
            when = "after this step" if training else "at once"
            again = "; once more to stop at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{signal.Signals(number).name}: stopping {when}{again}\n".encode())
        if training:
            self.number = number
            return
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)  # other ranks may be waiting for this one
        sys.exit(128 + number)
