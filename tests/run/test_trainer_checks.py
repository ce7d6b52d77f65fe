import csv
from datetime import timedelta
from typing import Any

import pytest
from lightning.pytorch import callbacks as lightning_callbacks

from taro.run import train
from taro.run.checks import ConfigError
from taro.run.cli import parse
from taro.run.trainer_checks import REFUSED, REFUSED_CALLBACKS, trainer_problems

pytestmark = pytest.mark.slow  # as a whole file: each builds the whole command line

OTHERS = {"fast_dev_run": "true", "limit_train_batches": "1", "overfit_batches": "1", "default_root_dir": "/tmp"}
OTHERS |= {"num_sanity_val_steps": "2", "check_val_every_n_epoch": "1", "accumulate_grad_batches": "4"}
OTHERS |= {"gradient_clip_val": "1.0", "gradient_clip_algorithm": "norm", "reload_dataloaders_every_n_epochs": "1"}
OTHERS |= {"limit_val_batches": "0.5", "limit_test_batches": "2", "limit_predict_batches": "0", "enable_progress_bar": "false"}
OTHERS |= {"inference_mode": "true"}
OTHERS |= {"use_distributed_sampler": "true", "barebones": "true", "sync_batchnorm": "true", "model_registry": "name"}


def test_what_would_be_ignored_or_break_is_refused(arguments):
    """Before anything is made of it; each with what to set instead."""
    with pytest.raises(ConfigError) as error:
        parse([*arguments, *(f"--trainer.{name}={value}" for name, value in OTHERS.items())])
    _, *problems = str(error.value).splitlines()
    assert sorted(OTHERS) == sorted(REFUSED) and len(problems) == len(REFUSED)
    for name, (_, instead) in REFUSED.items():
        assert f"- trainer.{name} = {OTHERS[name]}: {instead}" in problems


def test_one_batch_is_not_all_of_them():
    usual = {name: allowed[0] for name, (allowed, _) in REFUSED.items()}
    assert not list(trainer_problems(usual | {"limit_train_batches": 1.0}))
    assert list(trainer_problems(usual | {"limit_train_batches": 1}))


@pytest.mark.parametrize("name", ["ModelCheckpoint", "StochasticWeightAveraging"])
def test_callbacks_that_can_not_be(arguments, name):
    with pytest.raises(ConfigError, match=f"trainer.callbacks has {name}: "):
        parse([*arguments, f"--trainer.callbacks={{class_path: {name}, init_args: {ARGUMENTS.get(name, {})}}}"])


ARGUMENTS = {"StochasticWeightAveraging": "{swa_lrs: 0.1}"}


def test_refused_callbacks_exist():
    assert all(hasattr(lightning_callbacks, name) for name in REFUSED_CALLBACKS)


def test_settings_that_are_left_to_the_trainer(arguments):
    extra = ["--trainer.max_time=00:01:00:00", "--trainer.deterministic=true", "--trainer.profiler=simple"]
    cli = parse([*arguments, *extra, "--trainer.callbacks+=LearningRateMonitor", "--trainer.log_every_n_steps=3"])
    (timer,) = [one for one in cli.trainer.callbacks if isinstance(one, lightning_callbacks.Timer)]
    assert timer.time_remaining() == timedelta(hours=1).total_seconds()
    assert any(isinstance(one, lightning_callbacks.LearningRateMonitor) for one in cli.trainer.callbacks)
    assert cli.trainer.log_every_n_steps == 3


def test_a_logger_of_the_user_gets_what_tensorboard_gets(learning, scripted, tmp_path):
    train.main([*learning, "--trainer.max_steps=1", "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."])
    folder = tmp_path / "run"
    assert list(folder.glob("events.out.tfevents*"))
    (metrics,) = folder.rglob("metrics.csv")  # in the run's folder, since no other was named
    rows = [row for row in csv.DictReader(metrics.open()) if row["reward"]]  # others are of validations
    assert float(rows[0]["reward"]) > 0 and "learning_rate" in (metrics.parent / "hparams.yaml").read_text()


@pytest.mark.parametrize("value", ["true", "false", "null"])
def test_tensorboard_is_always_there(arguments, value):
    assert parse([*arguments, f"--trainer.logger={value}"]).trainer.loggers == []  # train.py adds it


@pytest.mark.parametrize("name", ["CSVLogger", "lightning.pytorch.loggers.TensorBoardLogger"])
def test_a_logger_of_which_only_the_name_is_given(arguments, tmp_path, name):
    (logger,) = parse([*arguments, "--trainer.logger", name]).trainer.loggers
    assert logger.save_dir == f"{tmp_path}/run"


def test_a_logger_goes_where_it_is_told(arguments, tmp_path):
    (logger,) = parse([*arguments, "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={tmp_path}/own"]).trainer.loggers
    assert logger.save_dir == f"{tmp_path}/own"


def test_a_logger_whose_package_is_not_installed(arguments, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.csv_logs.CSVLogger.__init__", _not_installed)
    with pytest.raises(ConfigError, match=r"loggers\.CSVLogger can't be made: No module named wandb; pip install wandb$"):
        parse([*arguments, "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."])


def _not_installed(self, save_dir: str, **others: Any) -> None:
    raise ModuleNotFoundError("No module named wandb;\npip install wandb")
