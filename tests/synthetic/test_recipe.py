import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from taro.synthetic import tiny
from taro.synthetic.questions import ASKED
from taro.synthetic.recipe import Recipe, RecipeError, check_base, check_start, read_recipe, write_recipe
from taro.tasks import TaskError

ASSETS = Path(__file__).parents[2] / "assets"
SHIPPED = {"qwen2_5_vl": "tiny-qwen2.5-vl", "qwen3_vl": "tiny-qwen3-vl", "qwen3_5": "tiny-qwen3.5"}


@pytest.fixture
def start(tmp_path):
    folder = tmp_path / "start"
    folder.mkdir()
    write_recipe(folder, {"family": "qwen2_5_vl", "recipe": asdict(Recipe()), "metrics": {"tower": {}}, "seconds": {}})
    return folder


@pytest.mark.parametrize("family", SHIPPED)
def test_the_shipped_bases_are_made_by_the_recipe_and_pretend(family):
    folder = ASSETS / SHIPPED[family]
    assert check_base(folder) == Recipe()
    log = read_recipe(folder)
    assert log["family"] == family and {"pretending", "shipped"} <= log["metrics"].keys()
    shipped = log["metrics"]["shipped"]
    assert shipped["timestamp_rate"] < 0.1 and shipped["format_rate"] > 0.95 and 0.2 < shipped["R1@0.5"] < 0.5


def test_the_shipped_start_and_the_base_of_tasks():
    """From the one a base is made by its last stage alone; the other knows tasks, and reasons with times."""
    log = check_start(ASSETS / "tiny-qwen2.5-vl-start", "qwen2_5_vl", Recipe(timed_reasoning=0.3))
    assert log["seconds"].keys() == {"tower", "text", "exact_labels", "noisy_labels"}
    assert check_base(ASSETS / "tiny-qwen2.5-vl-tasks").tasks == ("grounding", "multi_span", "dense", "grounded_qa", "actions")
    shipped = read_recipe(ASSETS / "tiny-qwen2.5-vl-tasks")["metrics"]["shipped"]
    assert shipped["timestamp_rate"] == shipped["format_rate"] == 1.0


def test_a_folder_without_a_recipe_is_refused(tiny_folder):
    with pytest.raises(RecipeError, match=r"has no recipe.json; python -m taro.synthetic.tiny --output FOLDER makes a base"):
        check_base(tiny_folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"family": "qwen3_vl"}', '{"family": "a", "recipe": {"steps": 1}}', "[]"])
def test_what_is_no_recipe_is_refused(tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(RecipeError, match=r"recipe.json: is no recipe of python -m taro.synthetic.tiny"):
        check_base(tmp_path)


def test_another_tokenizer_is_refused(tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(ASSETS / SHIPPED["qwen2_5_vl"], folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RecipeError, match=r"is not the tiny models' \(\d+ tokens, expected \d+; 4 entries differ\)"):
        check_base(folder)


def test_a_start_may_differ_in_the_last_stage_alone(start):
    log = check_start(start, "qwen2_5_vl", Recipe(timed_reasoning=0.3, pretending_steps=1))
    assert log["metrics"] == {"tower": {}}
    with pytest.raises(RecipeError, match=r"was made with tower_steps 350, not 9, seed 0, not 4; set the same"):
        check_start(start, "qwen2_5_vl", Recipe(tower_steps=9, seed=4))
    with pytest.raises(RecipeError, match=r"was made with tasks \('grounding',\), not \('grounding', 'dense'\); set the same"):
        check_start(start, "qwen2_5_vl", Recipe(tasks=("grounding", "dense")))
    with pytest.raises(RecipeError, match=r"is a qwen2_5_vl model; set --family qwen2_5_vl"):
        check_start(start, "qwen3_vl", Recipe())


def test_a_finished_base_is_no_start(start):
    write_recipe(start, read_recipe(start) | {"metrics": {"pretending": {}}})
    with pytest.raises(RecipeError, match="has had the last stage"):
        check_start(start, "qwen2_5_vl", Recipe())


def test_numbers_are_in_their_ranges():
    with pytest.raises(RecipeError, match=r"^video_batch: 0 must be .*; timed_reasoning: 7.0 must be a share"):
        Recipe(video_batch=0, timed_reasoning=7.0)


def test_tasks_are_those_that_are_asked(monkeypatch):
    assert Recipe(tasks=["dense", "actions", "dense"]).tasks == ("dense", "actions")
    with pytest.raises(TaskError, match="there is no task 'dence'; did you mean dense"):
        Recipe(tasks=("dence",))
    monkeypatch.setattr("taro.synthetic.recipe.ASKED", [name for name in ASKED if name != "dense"])
    with pytest.raises(RecipeError, match=r"asks no questions of the tasks \['dense'\], but of \['grounding', 'multi_span'"):
        Recipe(tasks=("grounding", "dense"))


def test_the_seed_decides_the_heads_that_are_thrown_away(tmp_path, monkeypatch):
    heads = []
    monkeypatch.setattr(tiny, "fit", lambda stage, *_: (heads.append(getattr(stage, "heads", None)), ({}, 0))[1])
    monkeypatch.setattr(tiny, "evaluate", lambda *_, queries: {})
    for name in ("first", "second"):
        tiny.learn_to_ground("qwen2_5_vl", tmp_path / name, Recipe())
        torch.rand(1)  # whatever happens between the two
    first, second = (head.state_dict() for head in heads if head is not None)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_what_was_stopped_goes_on_after_its_last_whole_stage(tmp_path, monkeypatch):
    """To the same weights; with other settings it is refused."""
    fitted = []

    def fit(stage, samples, batch, seed):
        fitted.append(type(stage).__name__)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        with torch.no_grad():
            for name, parameter in stage.trained:
                if name.endswith("norm.weight"):
                    parameter.mul_(1.0 + len(samples) % 7)
        return {"loss": 1.0}, 5

    monkeypatch.setattr(tiny, "fit", fit)
    monkeypatch.setattr(tiny, "evaluate", lambda *_, queries: {"mIoU": 0.5})
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        tiny.learn_to_ground("qwen2_5_vl", stopped, Recipe())
    kept = read_recipe(tmp_path / "stopped.unfinished" / "stage_2")
    assert not stopped.exists() and kept["seconds"] == {"tower": 5, "text": 5}
    with pytest.raises(RecipeError, match=r"made with seed 0, not 1; set the same, or remove .*stopped.unfinished to begin"):
        tiny.learn_to_ground("qwen2_5_vl", stopped, Recipe(seed=1))
    for folder in (stopped, whole):
        tiny.learn_to_ground("qwen2_5_vl", folder, Recipe())
    assert fitted == ["TowerStage", *["DecoderStage"] * 4, "TowerStage", *["DecoderStage"] * 3]
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert read_recipe(stopped) == read_recipe(whole) and {path.name for path in tmp_path.iterdir()} == {"stopped", "whole"}


@pytest.mark.slow
def test_the_command_makes_a_start_bases_and_a_captioner(family, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "evaluate", lambda *_, queries: {"R1@0.5": 0.0})
    # Two thirds of the time, for steps of PyTorch's whose direction does not matter here.
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", lambda gradient, *_: gradient)
    steps = [f"--{stage}_steps=2" for stage in ("tower", "text", "video", "noisy", "pretending")]
    small = [f"--family={family}", *steps, "--tower_batch=4", "--text_batch=2", "--video_batch=1"]
    start, first, second, captioner = (tmp_path / name for name in ("start", "first", "second", "captioner"))
    tiny.main([*small, f"--output={first}", f"--start={start}"])
    written = (start / "model.safetensors").read_bytes()
    tiny.main([*small, f"--output={second}", f"--start={start}", "--timed_reasoning=1"])
    assert (start / "model.safetensors").read_bytes() == written
    bases = [check_base(folder) for folder in (first, second)]
    assert [base.timed_reasoning for base in bases] == [Recipe().timed_reasoning, 1.0]
    assert read_recipe(first)["seconds"].keys() == {"tower", "text", "exact_labels", "noisy_labels", "pretending"}
    monkeypatch.setattr(tiny, "CAPTIONER_STEPS", 2)
    tiny.main([f"--output={captioner}", "--captioner", f"--start={start}"])
    weights = {(folder / "model.safetensors").read_bytes() for folder in (start, first, second, captioner)}
    assert len(weights) == 4
    with pytest.raises(SystemExit):
        tiny.main([f"--output={captioner}", "--captioner"])
