"""Runs of train.py that learn fast, and that are cut short."""

from __future__ import annotations

import pytest

from taro.rl.module import GRPOModule
from taro.run import train
from taro.run.records import RunRecords


@pytest.fixture
def learning(arguments):
    """Arguments of a run whose weights change with each step, and that has no shuffled passes."""
    return [*arguments, "--model.optimizer.learning_rate=1e-3", "--model.temporal_reward=null", "--model.group_size=2"]


class Stop(Exception):
    pass


@pytest.fixture
def cut_short(monkeypatch):
    """Runs train.py and ends it by an exception: the returned function takes the arguments, how many calls of a method are let
    through, and the method; by default it is called once a step, before the update (`RECORDS`: after it)."""

    def run(arguments, calls, method=(GRPOModule, "rollout")):
        original, made = getattr(*method), []

        def stopping(*args, **kwargs):
            made.append(1)
            if len(made) > calls:
                raise Stop
            return original(*args, **kwargs)

        with monkeypatch.context() as patched, pytest.raises(Stop):
            patched.setattr(*method, stopping)
            train.main(arguments)

    run.RECORDS = RunRecords, "on_train_batch_end"
    return run
