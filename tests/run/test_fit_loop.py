"""Lightning's loop goes on as if it had made the steps before itself."""

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from taro.progress import steps_done
from taro.run.fit_loop import start_after, validate_now, validation_is_next

EPOCH, EVERY = 4, 3  # steps of an epoch, and between validations


class Log(DummyLogger):
    def __init__(self, events):
        super().__init__()
        self.events = events

    def log_metrics(self, metrics, step=None):
        self.events += [(name, value, step) for name, value in metrics.items() if name != "epoch"]


class Module(L.LightningModule):
    """What happens in it: its events."""

    def __init__(self, start, due):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.start, self.due, self.events, self.nexts = start, due, [], []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_fit_start(self):
        if self.start:
            start_after(self.trainer, self.start, self.start, EPOCH)

    def on_train_start(self):
        if self.due:
            validate_now(self.trainer)

    def training_step(self, batch, batch_idx):
        self.events.append(("step", self.trainer.current_epoch, batch_idx, steps_done(self.trainer), self.global_step))
        self.weight.grad = torch.ones(())
        self.optimizers().step()
        self.log("done", float(steps_done(self.trainer)))

    def on_train_batch_end(self, *args):
        self.nexts.append(validation_is_next(self.trainer))

    def validation_step(self, batch, batch_idx):
        self.log("score", float(steps_done(self.trainer)))


def fit(limit, start=0, due=False):
    module = Module(start, due)
    trainer = L.Trainer(
        **limit, accelerator="cpu", logger=Log(module.events), log_every_n_steps=1, val_check_interval=EVERY,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(range(EPOCH)), DataLoader(range(2)))
    return module


@pytest.fixture(scope="module")
def whole():
    return fit({"max_epochs": 3})


@pytest.mark.parametrize("start", range(1, 3 * EPOCH))
def test_from_each_step_on(whole, start):
    """Its steps, and both steps of the log: of a validation that is due first, too."""
    limit = {"max_epochs": 3} if start % 2 else {"max_steps": 3 * EPOCH}
    assert whole.nexts == [step % EVERY == 0 for step in range(1, 3 * EPOCH + 1)]
    assert len(whole.events) == 3 * EPOCH * 2 + 3 * EPOCH // EVERY
    for due in {False, start % EVERY == 0}:
        first = ("score", float(start), start - 1)
        expected = [event for event in whole.events if _step(event) > start or (due and event == first)]
        assert fit(limit, start, due).events == expected


def _step(event):
    """From 1."""
    return event[3] + 1 if event[0] == "step" else event[2] + 1
