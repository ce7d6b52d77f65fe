"""The benchmarks run and say what they should; how fast anything is, is not tested."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tolerances import LOG_PROBS

from taro.models.settings import GroundingSettings
from taro.synthetic.architecture import TINY_PROMPT, TINY_VIDEO
from taro.synthetic.recipe import write_recipe

pytestmark = pytest.mark.slow  # as a whole file: real runs

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = ["--prompt=120", "--frames=8", "--completion=6", "--group=3", "--repeats=1"]


def run(script, *arguments, refused=False):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=BENCHMARKS.parent)
    assert (done.returncode != 0) == refused, done.stderr
    return done.stderr if refused else done.stdout


@pytest.mark.parametrize("options", [[], ["--family=qwen3_vl", "--gradient_checkpointing"], ["--without_sensitivity"]], ids=str)
def test_step_counts_the_tokens_of_both_ways(tmp_path, options):
    output = run("step.py", *SMALL, *options, f"--json={tmp_path / 'step.json'}")
    result = json.loads((tmp_path / "step.json").read_text())
    plain, ours = (result[way]["phases"] for way in ("plain", "ours"))
    assert ours["decode"]["tokens"] == plain["decode"]["tokens"] == 18
    prompt = ours["prefill"]["tokens"]
    assert plain["prefill"]["tokens"] == 3 * prompt
    assert ours["backward"]["tokens"] == ours["reference"]["tokens"] == prompt + 18
    assert plain["backward"]["tokens"] == plain["reference"]["tokens"] == 3 * (prompt + 6)
    assert result["ratios"]["backward"]["predicted"] == pytest.approx(3 * (prompt + 6) / (prompt + 18))
    video = 100 if "qwen3" not in str(options) else 64
    assert ours["video"]["tokens"] >= video and "whole step" in output
    if "--without_sensitivity" in options:
        assert "shuffled" not in ours and ours["video"]["tokens"] * 9 == plain["video"]["tokens"]
    else:
        assert plain["shuffled"]["tokens"] == 2 * 3 * (prompt + 6) and 0 < result["sensitivity_share"] < 1
    for phases in (plain, ours):
        assert all(phase["seconds"] > 0 for phase in phases.values())
    difference = float(output.split("between the two ways: ")[1].split()[0])
    assert difference < LOG_PROBS


@pytest.fixture
def methods(synthetic, tiny_folder, tmp_path):
    """Arguments of methods.py for runs of one step from a base with a recipe."""
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    GroundingSettings(TINY_PROMPT, TINY_VIDEO, 1024, None, 1024).save(base)
    write_recipe(base, {"family": "qwen2_5_vl", "recipe": {"timed_reasoning": 0.1}, "metrics": {}, "seconds": {}})
    (tmp_path / "worlds").mkdir()
    (tmp_path / "worlds" / "loose").symlink_to(synthetic)
    places = [f"--{name}={tmp_path / name}" for name in ("runs", "results")]
    short = ["--model.sampling.max_tokens=16", "--model.evaluation_max_tokens=8", "--model.group_size=2"]
    short += ["--data.prompts_per_step=2", "--data.workers=0"]
    return [f"--bases={base}", f"--data={tmp_path}/worlds", *places, f"--output={tmp_path}/page", *short]


def test_methods_are_trained_once_and_compared(methods, tmp_path):
    arguments = [*methods, "--configs", "time_r1", "taro", "--jobs=2", "--trainer.max_steps=1"]
    shown = run("methods.py", *arguments, "--seeds", 0)
    rows = [line for line in shown.splitlines() if line.startswith("| base |")]
    assert [row.split(" | ")[1:4] for row in rows[1:]] == [
        ["", "before training", "1"], ["loose", "time_r1", "1"], ["loose", "taro", "1"],
    ]  # fmt: skip
    assert shown.count(": done") == 3 and (tmp_path / "page.png").stat().st_size > 0
    result = json.loads((tmp_path / "results" / "base.loose.taro.seed0.json").read_text())
    assert len(result["scores"]) == len(result["ids"]) and len(result["curves"]["reward"]) == 1
    again = run("methods.py", *arguments, "--seeds", 0, 1)
    assert again.count(": done") == 2 and "| 2 |" in again
    error = run("methods.py", *arguments, "--seeds", 0, "--model.group_size=4", refused=True)
    assert "base.loose.time_r1.seed0.json: was made with other settings (--model.group_size=4)" in error


def test_methods_refuses_before_anything_runs(methods, tiny_folder, tmp_path):
    error = run("methods.py", *methods, "--configs", "taro", "--bases", tiny_folder, refused=True)
    assert "has no recipe.json" in error
    error = run("methods.py", *methods, "--configs", "taro", "nothing", refused=True)
    assert "there is no configs/experiments/nothing.yaml" in error
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()


def test_intervals_are_over_seeds_and_queries():
    sys.path.insert(0, str(BENCHMARKS))
    from methods import interval

    rng = np.random.default_rng(1)
    truth, widths = [], []
    for _ in range(200):
        scores = rng.normal(0, 0.1, (5, 1, 1)) + rng.normal(0, 1, (1, 300, 1)) + rng.normal(0, 1, (5, 300, 1))
        low, high = interval(scores)[0]
        truth.append(low <= 0 <= high)
        widths.append(high - low)
    assert 0.85 < sum(truth) / len(truth) <= 0.99
    alone = interval(scores[:1])[0]
    assert alone[1] - alone[0] > 0.15
