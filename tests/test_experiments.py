"""Every config of configs/experiments trains."""

import math
from pathlib import Path

import pytest

EXPERIMENTS = sorted((Path(__file__).parents[1] / "configs" / "experiments").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_two_steps(path, fit, arguments, scripted, steps):
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    own = [one for one in arguments if "warmup_epochs" not in one]  # what the config says stands
    cli = fit([f"--config={path}", *own, *short], steps)
    assert cli.trainer.global_step == 2
    assert all(math.isfinite(value) for name in ("loss", "reward", "grad_norm") for value in steps.column(name))
