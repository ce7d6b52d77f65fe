import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoTokenizer

from taro.models.export import ExportError, export_policy, main
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings


def test_the_command_gives_the_policy(fit, arguments, scripted, tiny_folder, tmp_path, capsys):
    """Of a run of two steps: its weights, in their precision or another one, and all that a model folder has beside them."""
    cli = fit([*arguments, "--trainer.max_steps=2", "--model.optimizer.learning_rate=1e-3",
               "--data.grounding.evaluation_video.fps=0.5", "--data.grounding.evaluation_video.max_tokens=64"])  # fmt: skip
    path, folder = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "exported"
    main([f"--checkpoint={path}", f"--output={folder}"])
    assert "weights of step 2" in capsys.readouterr().out
    found, start = (AutoModelForImageTextToText.from_pretrained(place).state_dict() for place in (folder, tiny_folder))
    expected = cli.model.policy.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert any(not torch.equal(value, start[name]) for name, value in found.items())
    settings = GroundingSettings.load(folder)
    assert settings == cli.datamodule.grounding and settings.evaluation_video.fps == 0.5

    for name in ("preprocessor_config.json", "generation_config.json", "chat_template.jinja"):
        assert (folder / name).exists() == Path(tiny_folder, name).exists()
    originals = (json.loads(Path(place, "preprocessor_config.json").read_text()) for place in (tiny_folder, folder))
    assert next(originals) == next(originals)
    tokenizers = [AutoTokenizer.from_pretrained(place) for place in (tiny_folder, folder)]
    ids, same = (tokenizer("the red square, 日本語 <|im_end|>")["input_ids"] for tokenizer in tokenizers)
    assert ids == same and tokenizers[0].eos_token_id == tokenizers[1].eos_token_id

    main([f"--checkpoint={path}", f"--output={tmp_path}/half", "--dtype=bfloat16"])
    half = AutoModelForImageTextToText.from_pretrained(tmp_path / "half", dtype="auto")
    assert half.dtype == torch.bfloat16 and cli.model.policy.model.dtype == torch.float32
    for name, value in expected.items():
        if value.is_floating_point():
            assert torch.equal(half.state_dict()[name], value.bfloat16()), name


def test_both_families_come_back_as_they_were(own_policy, model_folder, tmp_path):
    export_policy(own_policy, model_folder, tmp_path / "exported", None)
    again = QwenVL.from_pretrained(str(tmp_path / "exported"))
    assert type(again.model) is type(own_policy.model) and again.geometry == own_policy.geometry
    for name, value in own_policy.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert GroundingSettings.load(tmp_path / "exported") is None


def fill_disk(patched, kind):
    """A disk that is full as soon as the weights are written, or after them."""

    def fail(*args, **kwargs):
        if kind == "weights":  # as safetensors puts it
            system = 'Os { code: 28, kind: StorageFull, message: "No space left on device" }'
            raise SafetensorError(f"Error while serializing: I/O error: {system}")
        raise OSError(28, "No space left on device")

    place = {"weights": "safetensors.torch.serialize_file", "rest": "taro.models.export.GroundingSettings.save"}[kind]
    patched.setattr(place, fail)


@pytest.mark.parametrize("kind", ["weights", "rest"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(tiny_folder, tmp_path, monkeypatch, kind, earlier):
    policy, output = QwenVL.from_pretrained(tiny_folder), tmp_path / "hf"
    if earlier:
        export_policy(policy, tiny_folder, output, GroundingSettings())
    before = {path.name: path.read_bytes() for path in output.glob("*")}
    with torch.no_grad():
        policy.model.lm_head.weight.add_(1)
    message = rf"^{output} can't be written \(No space left on device\)$"
    with monkeypatch.context() as patched, pytest.raises(ExportError, match=message):
        fill_disk(patched, kind)
        export_policy(policy, tiny_folder, output, GroundingSettings())
    assert {path.name: path.read_bytes() for path in output.glob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == (["hf"] if earlier else [])
    export_policy(policy, tiny_folder, output, GroundingSettings())
    again = QwenVL.from_pretrained(str(output))
    assert torch.equal(again.model.lm_head.weight, policy.model.lm_head.weight)


def test_a_folder_of_other_things_is_not_replaced(tiny_folder, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds files that are no model's: choose another folder"):
        export_policy(QwenVL.from_pretrained(tiny_folder), tiny_folder, tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
