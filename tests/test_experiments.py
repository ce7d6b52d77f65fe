"""Every config of configs/experiments trains."""

import math
from pathlib import Path

import pytest
import yaml

from taro.rl.settings import OptimizerSettings

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))


@pytest.mark.parametrize(
    ("name", "model"),
    [  # TimeLens' own script for 7B says in a comment that rewards are not scaled, and scales them
        ("timelens", {"rewards": {"timelens": 1.0}, "advantages": {"scale": "none"}, "loss": {"kl_coefficient": 0}}),
        ("timelens2", {"loss": {"kl_coefficient": 0.04}}),
        ("museg", {"loss": {"kl_coefficient": 0.04}}),
        ("t_grpo", {"loss": {"kl_coefficient": 0.04}, "shuffled_rollouts": 4}),
        ("ra_rft", {"loss": {"kl_coefficient": 0.05}, "group_size": 4}),
        ("dgrpo", {"advantages": {"scale": "dgrpo"}}),
        ("ema_grpo", {"advantages": {"scale": "ema"}}),
        ("dr_grpo", {"advantages": {"scale": "none"}, "loss": {"average": "constant", "kl_coefficient": 0}}),
    ],
)
def test_settings_of_the_source(name, model):
    """As the head of the file has them; the rate stays what it is, which the base doesn't change."""
    own = yaml.safe_load((CONFIGS / "experiments" / f"{name}.yaml").read_text())["model"]
    assert {setting: own[setting] for setting in model} == model
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())["model"]["optimizer"]
    assert "schedule" not in {**base, **own.get("optimizer", {})} and OptimizerSettings().schedule == "constant"


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_two_steps(path, fit, arguments, scripted, steps):
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    own = [one for one in arguments if "warmup_epochs" not in one]  # what the config says stands
    cli = fit([f"--config={path}", *own, *short], steps)
    assert cli.trainer.global_step == 2
    assert all(math.isfinite(value) for name in ("loss", "reward", "grad_norm") for value in steps.column(name))
