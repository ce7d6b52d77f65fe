from types import SimpleNamespace

import pytest
import torch

from taro.run.watch import SignalWatch


def run(watch, shares):
    """The numbers of the steps that warned."""
    warned = []
    for step, share in enumerate(shares, 1):
        metrics = {"frac_reward_zero_std": torch.tensor(share), "rewards/format/mean": torch.tensor(0.25)}
        trainer = SimpleNamespace(callback_metrics=metrics)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("taro.run.watch.rank_zero_warn", lambda text, step=step: warned.append((step, text)))
            watch.on_train_batch_end(trainer, None)
    return warned


def test_ten_silent_steps_in_a_row_warn():
    warned = run(SignalWatch(), [1.0] * 9 + [0.5] + [1.0] * 20)
    assert [step for step, _ in warned] == [20, 30]
    assert "in the last 10 steps" in warned[0][1] and "rewards/format/mean 0.25" in warned[0][1]
    assert "model.sampling.max_tokens" in warned[0][1]


def test_a_step_with_any_signal_does_not():
    assert run(SignalWatch(3), [0.99] * 10) == []


def test_a_step_without_groups_is_silent():
    watch = SignalWatch(2)
    trainer = SimpleNamespace(callback_metrics={"data/failed": torch.tensor(16.0)})
    watch.on_train_batch_end(trainer, None)
    with pytest.warns(UserWarning, match="data/failed 16"):
        watch.on_train_batch_end(trainer, None)
