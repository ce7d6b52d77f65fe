import json

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoTokenizer

from taro.models.export import ExportError, export_policy, main
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings


@pytest.fixture
def trained(fit, arguments, scripted, tmp_path):
    """A run of two steps and its last checkpoint."""
    cli = fit([*arguments, "--trainer.max_steps=2", "--model.optimizer.learning_rate=1e-3",
               "--data.grounding.evaluation_video.fps=0.5", "--data.grounding.evaluation_video.max_tokens=64"])  # fmt: skip
    return cli, tmp_path / "run" / "checkpoints" / "last.ckpt"


def test_the_command_gives_the_policy(trained, tiny_folder, tmp_path, capsys):
    cli, path = trained
    main([f"--checkpoint={path}", f"--output={tmp_path}/exported"])
    assert "weights of step 2" in capsys.readouterr().out
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported").state_dict()
    start = AutoModelForImageTextToText.from_pretrained(tiny_folder).state_dict()
    expected = cli.model.policy.model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert any(not torch.equal(value, start[name]) for name, value in found.items())
    settings = GroundingSettings.load(tmp_path / "exported")
    assert settings == cli.datamodule.grounding and settings.evaluation_video.fps == 0.5


def test_the_folder_is_whole(trained, tiny_folder, tmp_path):
    main([f"--checkpoint={trained[1]}", f"--output={tmp_path}/exported"])
    for name in ("preprocessor_config.json", "generation_config.json", "chat_template.jinja"):
        original, copied = (folder / name for folder in (tmp_path.__class__(tiny_folder), tmp_path / "exported"))
        assert copied.exists() == original.exists()
        if original.exists() and name == "preprocessor_config.json":
            assert json.loads(copied.read_text()) == json.loads(original.read_text())
    texts = "the red square, 日本語 <|im_end|>"
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (tiny_folder, tmp_path / "exported")]
    assert tokenizers[0](texts)["input_ids"] == tokenizers[1](texts)["input_ids"]
    assert tokenizers[0].eos_token_id == tokenizers[1].eos_token_id


def test_in_another_precision(trained, tmp_path):
    cli, path = trained
    main([f"--checkpoint={path}", f"--output={tmp_path}/half", "--dtype=bfloat16"])
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "half", dtype="auto")
    assert found.dtype == torch.bfloat16
    for name, value in cli.model.policy.model.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(found.state_dict()[name], value.bfloat16()), name
    assert cli.model.policy.model.dtype == torch.float32


def test_both_families_come_back_as_they_were(own_policy, model_folder, tmp_path):
    export_policy(own_policy, model_folder, tmp_path / "exported", None)
    again = QwenVL.from_pretrained(str(tmp_path / "exported"))
    assert type(again.model) is type(own_policy.model) and again.geometry == own_policy.geometry
    for name, value in own_policy.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert GroundingSettings.load(tmp_path / "exported") is None


class Full:
    """A disk that is full as soon as the weights are written, or after them."""

    def __init__(self, monkeypatch, kind):
        self.monkeypatch, self.kind = monkeypatch, kind

    def __enter__(self):
        self.context = self.monkeypatch.context()
        patched = self.context.__enter__()
        if self.kind == "weights":
            patched.setattr("safetensors.torch.serialize_file", self.fail)
        else:
            patched.setattr(GroundingSettings, "save", self.fail)

    def __exit__(self, *error):
        self.context.__exit__(*error)

    def fail(self, *args, **kwargs):
        if self.kind == "weights":  # as safetensors puts it
            kind = 'Os { code: 28, kind: StorageFull, message: "No space left on device" }'
            raise SafetensorError(f"Error while serializing: I/O error: {kind}")
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", ["weights", "rest"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(own_policy, model_folder, tmp_path, monkeypatch, kind, earlier):
    output = tmp_path / "hf"
    if earlier:
        export_policy(own_policy, model_folder, output, GroundingSettings())
    before = {path.name: path.read_bytes() for path in output.glob("*")}
    with torch.no_grad():
        own_policy.model.lm_head.weight.add_(1)
    message = rf"^{output} can't be written \(No space left on device\)$"
    with Full(monkeypatch, kind), pytest.raises(ExportError, match=message):
        export_policy(own_policy, model_folder, output, GroundingSettings())
    assert {path.name: path.read_bytes() for path in output.glob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == (["hf"] if earlier else [])
    export_policy(own_policy, model_folder, output, GroundingSettings())
    again = QwenVL.from_pretrained(str(output))
    assert torch.equal(again.model.lm_head.weight, own_policy.model.lm_head.weight)


def test_a_folder_of_other_things_is_not_replaced(own_policy, model_folder, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds files that are no model's: choose another folder"):
        export_policy(own_policy, model_folder, tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
