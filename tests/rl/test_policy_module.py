from contextlib import nullcontext

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import Strategy
from plain_gradients import MEASURED, PLAIN, Watch, assert_close_gradients
from tolerances import LOG_PROBS

from taro.models.qwen_vl import QwenVL
from taro.rollout import EngineError

pytestmark = pytest.mark.slow  # as a whole file: real runs


@pytest.mark.parametrize("engine", ["native", "vllm", "vllm_server"])
def test_models_and_engines_are_made_on_the_cpu_whatever_the_default_device(fit, arguments, scripted, monkeypatch, engine):
    """Lightning makes the GPU the default one while the model is configured."""
    devices = []

    class Noting(scripted.engine):
        def __init__(self, script):
            super().__init__(script)
            devices.append(torch.empty(0).device.type)

    scripted(kind=Noting)  # native
    for name in ("VLLMEngine", "VLLMServerEngine"):
        monkeypatch.setattr(f"taro.rollout.start.{name}", lambda *_: Noting(lambda row, seed, number: [7, 8, 9]))
    monkeypatch.setattr("taro.run.checks.vllm_is_installed", lambda: True)
    monkeypatch.setattr(Strategy, "tensor_init_context", lambda self, empty_init=None: torch.device("meta"))
    server = ["--model.vllm_server.weights=folder", "--model.vllm_server.folder=nowhere"]
    cli = fit([*arguments, *PLAIN, *server, f"--model.engine={engine}", "--trainer.max_steps=1"])
    assert devices == ["cpu"]
    models = (cli.model.policy, cli.model.reference)
    assert {parameter.device.type for model in models for parameter in model.parameters()} == {"cpu"}
    assert cli.model.policy.tower is cli.model.reference.tower


def test_layers_are_compiled_for_the_policy_and_for_the_reference(fit, arguments, monkeypatch):
    compiled = []
    monkeypatch.setattr("taro.run.checks.require_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: compiled.append(forward) or forward)
    model = fit([*arguments, *PLAIN, "--model.torch_compile=true", "--trainer.max_steps=1"]).model
    layers = [*model.policy.decoder.layers, *model.reference.decoder.layers]
    assert [forward.__self__ for forward in compiled] == layers  # none runs those of the other model


def test_an_engine_that_fails_is_replaced_once(fit, arguments, scripted, steps):
    """Then the run stops, with the reason."""
    calls = []

    class Dying(scripted.engine):
        failures = 1

        def generate(self, prompts, sampling):
            calls.append("generate")
            if self.failures:
                self.failures -= 1
                raise EngineError("the worker died")
            return super().generate(prompts, sampling)

        def restart(self):
            calls.append("restart")
            self.stale = True

        def sync(self, named_parameters):
            calls.append("sync")
            self.stale = False

    scripted(kind=Dying)
    with pytest.warns(UserWarning, match="the worker died. Once more, with a fresh engine"):
        fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    assert calls == ["sync", "generate", "restart", "sync", "generate"] and len(steps.metrics) == 1
    Dying.failures = 2
    with pytest.raises(EngineError, match="the worker died"):
        fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    assert len(steps.metrics) == 1


def test_weights_are_handed_over_once_for_each_change(fit, arguments, scripted, steps, monkeypatch):
    """For each update, and once for all batches of a validation, after which the next step has them already. An engine that
    has a tower of its own is asked without any of the policy's weights."""
    calls, features, gathered = [], [], []
    monkeypatch.setattr("taro.rl.policy_module.gathered", lambda *_: gathered.append(_) or nullcontext())

    class Counting(scripted.engine):
        is_policy = False

        def generate(self, prompts, sampling):
            calls.append("train" if len(prompts[0].seeds) > 1 else "evaluate")
            features.extend(prompt.features for prompt in prompts if calls[-1] == "evaluate")
            return super().generate(prompts, sampling)

        def sync(self, named_parameters):
            calls.append("sync")

    scripted(kind=Counting)
    validated = ["--trainer.limit_val_batches=1.0", "--trainer.val_check_interval=2", "--data.evaluation_batch=1"]
    fit([*arguments, *PLAIN, "--trainer.max_steps=3", *validated], steps)
    evaluations = calls.count("evaluate")
    assert evaluations > 1 and gathered == [] and set(features) == {None}
    assert calls == ["sync", "train"] * 2 + ["sync"] + ["evaluate"] * evaluations + ["train"]


def test_gradient_checkpointing_changes_no_number(fit, arguments, uneven):
    """And it is really on: the decoder runs again in the backward pass, in the mode of the first time, for which it may be
    compiled."""
    watch, calls = Watch(), []

    class Count(L.Callback):
        def on_train_start(self, trainer, module):
            layer = module.policy.decoder.layers[0].mlp
            layer.register_forward_pre_hook(lambda *_: calls.append(layer.training) if torch.is_grad_enabled() else None)

    for checkpointing, count in ((False, 1), (True, 2)):  # both groups in one pack
        calls.clear()
        fit([*arguments, *PLAIN, "--trainer.max_steps=1", f"--model.gradient_checkpointing={checkpointing}"], watch, Count())
        assert calls == [checkpointing] * count
    assert_close_gradients(*watch.gradients, tolerance=1e-5)


def test_rollouts_are_the_same_with_gradient_checkpointing(fit, arguments, steps):
    """Decoding needs its cache."""
    for checkpointing in ("false", "true"):
        fit([*arguments, "--trainer.max_steps=2", f"--model.gradient_checkpointing={checkpointing}",
             "--model.sampling.max_tokens=12", "--curriculum.warmup_epochs=0"], steps)  # fmt: skip
    texts = [[record["completion"] for record in records] for records in steps.records]
    assert texts[:2] == texts[2:] and len(set(texts[0])) > 1


def test_kept_features_change_no_number(fit, arguments, steps, tmp_path):
    """The second epoch and the second run encode nothing for rollouts and scoring; a cut entry is made again."""
    extra = ["--model.sampling.max_tokens=12", "--model.evaluation_max_tokens=4", "--curriculum.warmup_epochs=0",
             "--trainer.limit_val_batches=1.0", "--trainer.val_check_interval=4"]  # fmt: skip
    cached = [f"--model.feature_cache={{folder: {tmp_path}/features, max_gigabytes: 1}}"]
    fit([*arguments, *extra], steps)
    fit([*arguments, *extra, *cached], steps)
    files = sorted((tmp_path / "features").glob("**/*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-1])
    fit([*arguments, *extra, *cached], steps)
    plain, first, second = (steps.metrics[start : start + 6] for start in (0, 6, 12))
    for rows in (first, second):
        for row, expected in zip(rows, plain, strict=True):
            for name, value in expected.items():
                assert name.startswith(MEASURED) or row[name] == pytest.approx(value, abs=LOG_PROBS, nan_ok=True), name
    assert not any(name.startswith("feature_cache/") for name in plain[0])
    assert first[-1]["feature_cache/misses"] == len(files)
    assert first[-1]["feature_cache/hits"] > len(files)
    assert second[-1]["feature_cache/misses"] == 0 and second[-1]["feature_cache/torn"] == 1


def test_only_the_decoder_changes(fit, arguments, uneven, tiny_folder):
    cli = fit([*arguments, *PLAIN, "--trainer.max_steps=1", "--model.optimizer.learning_rate=1e-2"])
    start = QwenVL.from_pretrained(tiny_folder).state_dict()
    trained, reference = cli.model.policy.state_dict(), cli.model.reference.state_dict()
    assert trained.keys() == reference.keys() == start.keys()
    for name, value in start.items():
        assert torch.equal(reference[name], value)
        assert torch.equal(trained[name], value) == (".visual." in name or trained[name].numel() == 0), name
    assert not any(parameter.requires_grad for parameter in cli.model.reference.parameters())
    assert cli.model.reference.tower is cli.model.policy.tower
