"""Methods side by side, by benchmarks/methods.py. Its runs are made in this process."""

import json
import shutil
from pathlib import Path

import pytest

from taro.errors import TaroError
from taro.models.settings import GroundingSettings
from taro.run import eval as evaluation
from taro.run import train
from taro.synthetic.architecture import TINY_PROMPT, TINY_VIDEO
from taro.synthetic.recipe import write_recipe

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def methods(import_benchmark):
    return import_benchmark("methods")


@pytest.fixture
def compare(methods, synthetic, tiny_folder, tmp_path, monkeypatch, capsys):
    """methods.py with runs of one step from a base with a recipe; returns what it prints."""
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    GroundingSettings(TINY_PROMPT, TINY_VIDEO, 1024, None, 1024).save(base)
    write_recipe(base, {"family": "qwen2_5_vl", "recipe": {"timed_reasoning": 0.1}, "metrics": {}, "seconds": {}})
    (tmp_path / "worlds").mkdir()
    (tmp_path / "worlds" / "looser").symlink_to(synthetic)
    programs = {"train.py": train.main, "eval.py": evaluation.main}
    monkeypatch.setattr(methods, "call", lambda command, log: programs[command[0]](command[1:]))
    monkeypatch.setattr(methods, "EVALUATION", ("--workers=0", "--device=cpu"))
    monkeypatch.chdir(ROOT)
    places = [f"--{name}={tmp_path / name}" for name in ("runs", "results")]
    short = ["--steps=1", "--model.sampling.max_tokens=16", "--model.evaluation_max_tokens=8"]
    short += ["--model.group_size=2", "--data.prompts_per_step=2", "--data.workers=0"]

    def run(*arguments):
        given = [f"--bases={base}", f"--data={tmp_path}/worlds", *places, f"--output={tmp_path}/page", "--max_tokens=8"]
        methods.main([*given, *short, *arguments])
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_methods_are_trained_once_and_compared(compare, tmp_path):
    shown = compare("--configs", "time_r1", "taro", "--seeds=0")
    rows = [line for line in shown.partition("asked for")[0].splitlines() if line.startswith("| base |")][:4]
    assert [row.split(" | ")[1:4] for row in rows[1:]] == [
        ["looser", "before training", "1"], ["looser", "time_r1", "1"], ["looser", "taro", "1"],
    ]  # fmt: skip
    assert shown.count(": done") == 3 and (tmp_path / "page.png").stat().st_size > 0
    assert rows[2] in (tmp_path / "page.md").read_text()
    result = json.loads((tmp_path / "results" / "base.looser.taro.seed0.json").read_text())
    assert "--trainer.max_steps=1" in result["train"]
    assert len(result["scores"]) == len(result["ids"]) and len(result["curves"]["reward"]) == 1
    assert "fewer than three seeds" in shown and result["tasks"] == ["grounding"] * len(result["ids"])
    assert compare("--configs", "taro", "--seeds", "0", "1", "--against=taro").count(": done") == 1
    probed = compare("--configs=taro", "--seeds=0", "--probes=reversed")
    assert "mIoU lost: reversed" in probed and ": done" not in probed
    with pytest.raises(TaroError, match=r"has no blind, and its model .* is gone"):
        shutil.rmtree(tmp_path / "runs")
        compare("--configs=taro", "--seeds=0", "--probes=blind")
    with pytest.raises(TaroError, match=r"base.looser.taro.seed0.json: was made with other settings \(--model.group_size=4\)"):
        compare("--configs=taro", "--seeds=0", "--model.group_size=4")
    with pytest.raises(TaroError, match=r"base.looser.before.json: .* settings \(--max_tokens=8 --max_tokens=9\)"):
        compare("--configs=taro", "--seeds=0", "--max_tokens=9")
    path = tmp_path / "results" / "base.looser.taro.seed0.json"
    then = json.loads(path.read_text())
    then["config"]["model"]["group_size"] = 4  # as it may have been
    path.write_text(json.dumps(then))
    with pytest.raises(TaroError, match=r"taro.seed0.json: model.group_size of its configs changed since; remove the file"):
        compare("--configs=taro", "--seeds=0", "--against=taro")
    path.write_text(json.dumps(result | {"base": "0" * 64}))
    with pytest.raises(TaroError, match=r"taro.seed0.json: was made from other weights than .*base has; rename the base"):
        compare("--configs=taro", "--seeds=0", "--against=taro")


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other(compare, methods, monkeypatch, tmp_path):
    monkeypatch.setattr(methods, "check_configs", lambda *_: None)
    with pytest.raises(TaroError, match=r"1 of 3 runs have failed, the others are made:\n- (.|\n)*reward t_grpo"):
        compare("--configs", "t_grpo", "time_r1", "--seeds=0", "--curriculum.warmup_epochs=1")
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert made == {"base.looser.before.json", "base.looser.time_r1.seed0.json"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--configs=taro", "--steps=1", "--model.loss.updates=2"], "--steps: model.loss.updates must stand in a config"),
        (["--configs=taro", "--steps=1", "--trainer.max_steps=2"], "--steps, --trainer.max_steps: give one of them"),
        (["--configs", "taro", "other/taro.yaml"], "--configs: taro twice, and results have these names; give each once"),
        (["--configs=taro", "--seeds", "0", "1", "0"], "--seeds: 0 twice"),
        (["--configs=taro", "--seeds=4294967296"], "--seeds: 4294967296 is too large"),
        (["--configs=taro", "--against=tme_r1"], r"--against: tme_r1 is not among --configs \(taro\)"),
    ],
)
def test_what_was_asked_must_make_sense(compare, given, message):
    with pytest.raises(TaroError, match=message):
        compare(*given)


def test_a_step_may_have_several_updates(methods):
    """Which trainer.max_steps counts."""
    common, experiments = ROOT / "configs/tiny.yaml", ROOT / "configs/experiments"
    assert [methods.count_updates(common, experiments / f"{name}.yaml") for name in ("taro", "dapo")] == [1, 2]


def test_what_cant_be_compared_is_refused_before_anything_runs(compare, tiny_folder, tmp_path):
    with pytest.raises(TaroError, match=r"has no recipe.json"):
        compare("--configs=taro", f"--bases={tiny_folder}")
    with pytest.raises(TaroError, match=r"there is no configs/experiments/nothing.yaml; name a file"):
        compare("--configs", "taro", "nothing")
    with pytest.raises(TaroError, match=r"nothing was run:\n- .*/t_grpo.yaml on .*/base: curriculum.warmup_epochs = 1.0: "):
        compare("--configs", "time_r1", "t_grpo", "--curriculum.warmup_epochs=1")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results").exists()
