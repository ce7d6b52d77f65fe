import json
from dataclasses import replace
from pathlib import Path

import pytest

from taro.models import families
from taro.models.families import Qwen3VL
from taro.models.prompt import PromptBuilder
from taro.models.settings import GroundingSettings
from taro.run import doctor
from taro.run.doctor_checks import DIFFERS, NOT_INSTALLED, OK
from taro.run.doctor_readings import torchvision_is_installed, transformers_positions
from taro.synthetic.architecture import TINY_PROMPT, TINY_VIDEO


@pytest.fixture
def folder(model_folder, tmp_path):
    """A trained model of each family."""
    path = tmp_path / "model"
    path.mkdir()
    for file in Path(model_folder).iterdir():
        (path / file.name).symlink_to(file)
    GroundingSettings(TINY_PROMPT, TINY_VIDEO, 1024, None, 1024).save(path)
    return path


@pytest.fixture
def examine(folder, tmp_path, monkeypatch):
    """The findings, and how the command ended."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["doctor", f"--model={folder}", "--engine=native", *arguments])
        with pytest.raises(SystemExit) as leaving:
            doctor.command()
        return leaving.value.code

    return run


def wrong(path):
    return {one["check"]: one["remark"] for one in json.loads(path.read_text())["findings"] if one["status"] == DIFFERS}


def test_all_is_right_here(examine, family, tmp_path, capsys, monkeypatch):
    """With the video that it makes; vLLM is named where it isn't installed, and is no fault."""
    monkeypatch.setattr(doctor, "vllm_is_installed", lambda: False)
    monkeypatch.setattr("sys.argv", [])
    assert examine(f"--json={tmp_path}/found.json") == 0
    stored = json.loads((tmp_path / "found.json").read_text())
    found = {(one["check"], one["of"]): one for one in stored["findings"]}
    assert {one["status"] for one in stored["findings"]} <= {OK, NOT_INSTALLED}
    assert found["log-probs", "transformers"]["status"] == OK and found["placeholders", "ours"]["status"] == OK
    assert ("its processor", "transformers") in found or found["prompt ids", "transformers"]["status"] == OK
    assert ("its processor", "transformers") in found or torchvision_is_installed()
    known = "huggingface/transformers#45381" in found["positions", "ours"]["remark"]
    assert known == (family == "qwen2_5_vl")
    assert ("none" in found["time labels", "ours"]["remark"]) == (family == "qwen2_5_vl")
    assert "pictures of" in found["token budget", "ours"]["remark"]
    assert "token budget" in capsys.readouterr().out
    (line,) = doctor._of_vllm(None, None, "cpu", "float32")
    assert (line.of, line.status) == ("vLLM", NOT_INSTALLED)


def test_a_dropped_time_label(examine, family, tmp_path, monkeypatch, video_path):
    """As where an engine is given frames without times."""
    layout = Qwen3VL.layout

    def dropping(*given):
        whole = layout(*given)
        return replace(whole, text=whole.text.replace("<0.2 seconds>", ""))

    monkeypatch.setattr(families.Qwen3VL, "layout", dropping)
    status = examine(f"--json={tmp_path}/found.json", f"--video={video_path}", "--query=the red square moves left")
    if family == "qwen2_5_vl":
        assert status == 0
        return
    faults = wrong(tmp_path / "found.json")
    assert status == 1 and "missing: frames that are handed to an engine without their times" in faults["time labels"]


def test_positions_as_transformers_makes_them(examine, family, policy, tmp_path, monkeypatch, video_path):
    """Of Qwen3-VL they are right."""
    build = PromptBuilder.build

    def built(self, query, *given):
        prompt = build(self, query, *given)
        return replace(prompt, position_ids=transformers_positions(policy, doctor.Case(self, query, prompt, ())))

    monkeypatch.setattr(PromptBuilder, "build", built)
    assert examine(f"--json={tmp_path}/found.json", f"--video={video_path}") == int(family == "qwen2_5_vl")
    assert list(wrong(tmp_path / "found.json")) == (["positions"] if family == "qwen2_5_vl" else [])
    if family == "qwen2_5_vl":
        assert "begin inside of the video" in wrong(tmp_path / "found.json")["positions"]


def test_a_processor_with_another_size(examine, folder, tmp_path, video_path):
    path = folder / "preprocessor_config.json"
    stored = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(stored | {"size": {"shortest_edge": 4, "longest_edge": 28 * 28}}))
    assert examine(f"--json={tmp_path}/found.json", f"--video={video_path}") == 1
    assert list(wrong(tmp_path / "found.json")) == ["saved processor"]


def test_another_model(examine, family, policy, tmp_path, monkeypatch, video_path):
    """Weights that are not those that are trained."""
    answer = doctor.our_log_probs
    monkeypatch.setattr(doctor, "our_log_probs", lambda *given: answer(*given) + 0.1)
    assert examine(f"--json={tmp_path}/found.json", f"--video={video_path}") == 1
    assert list(wrong(tmp_path / "found.json")) == ["log-probs"]


def test_what_can_not_work(examine, capsys):
    assert "--device" in examine("--device=tpu")
    assert "there is no such folder" in examine("--model=/nowhere/at/all")
