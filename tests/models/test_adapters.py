import pytest
import torch
from checkpoint_content import read_all
from transformers import AutoModelForImageTextToText

from taro.models.adapters import LoRASettings, adapters_off, add_adapters
from taro.models.export import main as export
from taro.models.qwen_vl import QwenVL
from taro.models.weights import whole_weights

LORA = LoRASettings(rank=4, alpha=8)

pytestmark = pytest.mark.slow  # as a whole file: models are loaded again and again


@pytest.fixture
def adapted(own_policy):
    """With adapters that have learned something."""
    add_adapters(own_policy.model, LORA)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own_policy.trained_weights().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return own_policy


def logits(policy, prompt):
    with torch.no_grad():
        hidden = policy.hidden_states(
            prompt.input_ids[None],
            prompt.position_ids[:, None],
            features=policy.encode_video(prompt.video.frames),
            video_mask=prompt.video_mask[None],
        )
        return policy.logits(hidden)


def test_new_adapters_change_nothing(own_policy, policy, prompts):
    add_adapters(own_policy.model, LORA)
    assert torch.equal(logits(own_policy, prompts[0]), logits(policy, prompts[0]))


def test_only_the_decoder_s_layers_are_trained(own_policy):
    targets = [name for name, _ in own_policy.decoder.named_modules() if name.rpartition(".")[2] in LORA.targets]
    add_adapters(own_policy.model, LORA)
    trained = own_policy.trained_weights()
    assert len(trained) == 2 * len(targets) and len({name.rpartition(".")[2] for name in targets}) >= 7
    assert all(".language_model." in name and ".lora_" in name for name in trained)
    assert all(parameter.dtype == torch.float32 for parameter in trained.values())


def test_adapters_follow_the_seed_alone(tiny_folder):
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(values))
        policy = QwenVL.from_pretrained(tiny_folder)
        add_adapters(policy.model, LORA, seed)
        values.append(torch.cat([value.detach().flatten() for value in policy.trained_weights().values()]))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_off_is_the_model_before(adapted, policy, prompts):
    with adapters_off(adapted.model):
        assert torch.equal(logits(adapted, prompts[0]), logits(policy, prompts[0]))
    assert all(parameter.requires_grad for name, parameter in adapted.named_parameters() if ".lora_" in name)
    finite = logits(policy, prompts[0]).isfinite()
    assert not torch.allclose(logits(adapted, prompts[0])[finite], logits(policy, prompts[0])[finite], atol=1e-2)


def test_merged_weights_are_the_adapted_model(adapted, policy, prompts, tmp_path):
    """Also under transformers' names: what engines are given, and what is exported."""
    names = {name for name, _ in policy.named_weights()}
    assert {name for name, _ in adapted.named_weights()} == names
    assert all(weight.shape == whole.shape for (_, weight), (_, whole) in
               zip(adapted.named_weights(), whole_weights(adapted.named_weights()), strict=True))  # fmt: skip
    adapted.save_pretrained(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path)
    adapted_logits = logits(adapted, prompts[0])
    plain = QwenVL(merged, adapted.family, adapted.geometry, adapted.suppressed_ids.tolist()).eval()
    torch.testing.assert_close(logits(plain, prompts[0]), adapted_logits, atol=1e-4, rtol=1e-4)


def test_training_and_export(fit, arguments, scripted, tmp_path, tiny_folder):
    """The base stays as it was, the reference is the base, and a checkpoint holds the adapters alone."""
    pytest.importorskip("peft")
    extra = ["--model.lora={rank: 4, alpha: 8}", "--model.optimizer.learning_rate=1e-2", "--trainer.limit_val_batches=0"]
    cli = fit([*arguments, *extra, "--trainer.max_steps=3"])
    policy = cli.model.policy
    assert cli.model.reference is None and cli.trainer.callback_metrics["kl"] > 0
    base = AutoModelForImageTextToText.from_pretrained(tiny_folder).state_dict()
    for name, parameter in policy.model.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert read_all(path)["weights"].keys() == policy.trained_weights().keys()
    export([f"--checkpoint={path}", f"--output={tmp_path}/exported"])
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "exported").state_dict()
    for name, value in whole_weights(policy.named_weights()):
        assert torch.equal(exported[name], value), name
    assert any(not torch.equal(exported[name], base[name]) for name in base)


def test_a_run_with_adapters_resumes_exactly(fit, arguments, scripted, tmp_path):
    extra = ["--model.lora={rank: 4, alpha: 8}", "--model.optimizer.learning_rate=1e-2", "--trainer.limit_val_batches=0"]
    whole = fit([*arguments, *extra, "--name=whole"]).model.policy.trained_weights()
    fit([*arguments, *extra, "--trainer.max_epochs=1"])
    rest = fit([*arguments, *extra, "--ckpt_path=last"]).model.policy.trained_weights()
    assert whole.keys() == rest.keys()
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
