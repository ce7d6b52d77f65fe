"""Advantages relative to all groups of a step."""

import json
from types import SimpleNamespace

import pytest
import torch
from checkpoint_content import assert_equal, read_all

from taro.models.checkpoint import read_run
from taro.rl.advantages import EMAStd
from taro.rl.passes import make_packs
from taro.rl.settings import AdvantageSettings
from taro.rl.step_advantages import StepAdvantages

REWARDS = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0))  # (steps, groups, G)
TASKS = ["grounding", "dense", "grounding", "dense"]


def groups_of(step, part=slice(None)):
    return [
        SimpleNamespace(earned=({"a": rewards}, {"a": 1.0}), example=SimpleNamespace(sample=SimpleNamespace(task=task)))
        for rewards, task in zip(REWARDS[step, part].tolist(), TASKS[part], strict=True)
    ]


def advantages_of(own, step):
    own.take_in(step, groups_of(step))
    return own(REWARDS[step], TASKS)


def test_batch_std():
    own = StepAdvantages(AdvantageSettings(scale="batch"))
    advantages_of(own, 0)
    found = torch.cat([own(REWARDS[0, place : place + 1], TASKS[:1]) for place in range(4)])
    expected = (REWARDS[0] - REWARDS[0].mean(1, keepdim=True)) / REWARDS[0].flatten().std()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not own.state_dict()


@pytest.mark.parametrize(("scale", "form"), [("ema", "published"), ("ema_released", "released")])
def test_moving_std(scale, form):
    own, plain = StepAdvantages(AdvantageSettings(scale=scale, decay=0.5)), EMAStd(0.5, form=form)
    for step in range(3):
        torch.testing.assert_close(advantages_of(own, step), plain(REWARDS[step], TASKS), rtol=0, atol=0)


@pytest.mark.parametrize("cut_short", [False, True])
def test_it_goes_on_where_it_was(cut_short):
    """A run that is cut short in a step has taken the step's rewards in, and meets them again."""
    whole, first, second = (StepAdvantages(AdvantageSettings(scale="ema", decay=0.5)) for _ in range(3))
    expected = [advantages_of(whole, step) for step in range(3)]
    for step in range(3 if cut_short else 2):
        advantages_of(first, step)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    torch.testing.assert_close(advantages_of(second, 2), expected[2], rtol=0, atol=0)


def test_the_groups_of_all_ranks(monkeypatch):
    """Each rank has half of the step."""
    expected = advantages_of(StepAdvantages(AdvantageSettings(scale="ema")), 0)
    first = list(zip(REWARDS[0, :2], TASKS[:2], strict=True))
    monkeypatch.setattr("taro.rl.step_advantages.gather", lambda second: [first, second])
    own = StepAdvantages(AdvantageSettings(scale="ema"))
    own.take_in(0, groups_of(0, slice(2, 4)))
    torch.testing.assert_close(own(REWARDS[0, 2:], TASKS[2:]), expected[2:], rtol=0, atol=0)


def test_a_step_without_groups():
    own = StepAdvantages(AdvantageSettings(scale="ema"))
    own.take_in(0, [])
    assert own.state_dict()["now"] == {"moments": {}}


@pytest.mark.slow
def test_a_resumed_run_is_the_whole_one(fit, arguments, scripted, steps, tmp_path, monkeypatch):
    """To the bit, also from a checkpoint that was written in the middle of a step."""
    extra = ["--model.temporal_reward=null", "--model.advantages.scale=ema", "--model.advantages.decay=0.5"]
    extra += ["--model.optimizer.learning_rate=1e-3", "--trainer.limit_val_batches=0", "--trainer.max_epochs=1"]
    whole = fit([*arguments, *extra], steps)
    assert all(value > 0 for value in steps.column("grad_norm"))
    kept = read_all(whole.trainer.checkpoint_callback.folder / "last.ckpt")
    state = read_run(whole.trainer.checkpoint_callback.folder / "last.ckpt")["callbacks"]["StepAdvantages"]
    assert state["step"] == 2 and state["before"] != state["now"]

    class Stop(Exception):
        pass

    def stop_in_the_third(*given):
        reached.append(1)
        if len(reached) == 3:
            raise Stop
        return make_packs(*given)

    reached = []
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr("taro.rl.module.make_packs", stop_in_the_third)
        fit([*arguments, *extra, "--name=other"])
    last = tmp_path / "other" / "checkpoints" / "last.ckpt"
    assert read_run(last)["step"] == 2 and read_run(last)["callbacks"]["StepAdvantages"]["step"] == 2
    fit([*arguments, *extra, "--name=other", "--ckpt_path=last"])
    assert_equal(read_all(last)["weights"], kept["weights"])
