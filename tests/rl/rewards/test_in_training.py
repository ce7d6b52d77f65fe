"""Rewards in a training step."""

import pytest

from taro.rl.rewards.choose import REWARDS, RewardError

TEXTS = ("<think>a</think><answer>1.0s to 9.0s</answer>", "none", "<answer>0.0s to 2.0s</answer>")
NO_PATHS = "--curriculum.warmup_epochs=0"
ONE_STEP = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--model.temporal_reward=null", NO_PATHS]


@pytest.fixture
def answers(scripted, tiny_builder):
    scripted(lambda row, seed, number: [*tiny_builder.encode(TEXTS[row]), tiny_builder.eos_id])


@pytest.mark.parametrize("scale", ["separate", "dgrpo"])
def test_a_step_with_all_of_them(fit, arguments, answers, steps, scale):
    chosen = ["--model.rewards={{{}}}".format(", ".join(f"{name}: 0.5" for name in REWARDS)), "--model.shuffled_rollouts=1"]
    fit([*arguments, *ONE_STEP, *chosen, f"--model.advantages.scale={scale}"], steps)
    (row,) = steps.metrics
    assert row["grad_norm"] > 0 and row["rewards/format/mean"] == pytest.approx(1 / 3)
    parts = {name: value for name, value in row.items() if name.startswith("rewards/")}
    assert row["reward"] == pytest.approx(0.5 * sum(parts.values()), rel=1e-4)
    assert {name.split("/")[1] for name in parts} == set(REWARDS)


def broken(completions, **columns):
    return [1.0] * (len(completions) - 1)


def test_one_that_fails_stops_the_run(fit, arguments, answers, monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    with pytest.raises(RewardError) as error:
        fit([*arguments, *ONE_STEP, "--model.rewards={test_in_training.broken: 1}"])
    assert "returned 2 numbers for 3 completions; sample " in str(error.value)
    assert "the first: '<think>a</think>" in str(error.value)
