"""The benchmarks run and say what they should; how fast anything is, is not tested."""

import importlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from prepared_python import python
from tolerances import LOG_PROBS

pytestmark = pytest.mark.slow  # as a whole file: real runs

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = ["--prompt=120", "--frames=8", "--completion=6", "--group=3", "--repeats=1"]


def run(script, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [python(), str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "options",
    [["--family=qwen3_vl", "--gradient_checkpointing"], ["--family=qwen3_5"], ["--without_sensitivity"]],
    ids=str,
)
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


def test_greedy_completions_are_counted(synthetic):
    model = BENCHMARKS.parent / "assets" / "tiny-qwen3-vl"
    output = run("greedy.py", f"--model={model}", f"--data={synthetic}/test.jsonl", "--max_tokens=40")
    assert "2 of 2 are the same" in output


def test_a_picture_of_a_group_on_one_axis(synthetic, tmp_path):
    output = tmp_path / "out" / "timeline"
    run("timeline.py", f"--annotations={synthetic}/test.jsonl", "--limit=2", "--group=2", f"--output={output}")
    assert output.with_suffix(".png").stat().st_size > 10_000
    page = output.with_suffix(".html").read_text()
    assert "data-taro-timeline" in page and "&quot;gaps&quot;:[[" in page


def test_memory_of_a_long_video(tmp_path, monkeypatch):
    """The evaluations run; it is the memory of a process that forks them here, which is small."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.chdir(BENCHMARKS.parent)
    monkeypatch.setattr("sys.executable", python())
    long_video = importlib.import_module("long_video")
    memory, seconds = long_video.evaluate(long_video.make_video(tmp_path, 20.0), 8, ["--zoom"])
    assert memory > 1 and seconds > 0
    with pytest.raises(SystemExit, match="no such samples file"):
        long_video.evaluate(tmp_path / "none.jsonl", 8, [])


def test_rollouts_ahead_without_a_server(arguments, tmp_path):
    """Two steps: the second trains on what the weights of the first began with, as the first has updated nothing."""
    short = ["--model.sampling.max_tokens=8", "--trainer.max_steps=2"]
    run("ahead.py", f"--config={BENCHMARKS / 'ahead.yaml'}", *arguments, *short)
    assert [path.read_text().count("\n") for path in sorted((tmp_path / "run" / "rollouts").iterdir())] == [0, 6]
