"""A model that is only asked: its prompts, its sampling, and an engine in this process with its own weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.rollout.engine import RolloutEngine, SamplingSettings
from taro.rollout.native import NativeEngine
from taro.rollout.vllm import VLLMEngine, VLLMSettings
from taro.rollout.vllm_prompts import EngineModel, vllm_is_installed
from taro.rollout.vllm_server import VLLMServerEngine, VLLMServerSettings


def engine_problems(engine: str, device: str, vllm: VLLMSettings | None = None) -> Iterator[str]:
    """What of the flags --engine and --device, and of that engine's settings, can't work here."""
    if engine == "vllm" and not vllm_is_installed():
        yield "--engine vllm: vLLM is not installed; pip install -e '.[vllm]', or take native"
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and index.isdecimal())):
        yield f"--device {device}: must be auto, cpu, cuda or cuda:N"
    elif engine == "vllm" and colon:
        yield f"--device {device}: vLLM takes the first GPU it sees: set CUDA_VISIBLE_DEVICES, and cuda here"
    elif kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        yield f"--device {device}: {torch.cuda.device_count()} GPUs are there; name another one, or cpu"
    elif engine == "vllm" and vllm is not None and 0 < torch.cuda.device_count() < vllm.tensor_parallel_size and kind != "cpu":
        size, there = vllm.tensor_parallel_size, torch.cuda.device_count()
        yield f"--vllm.tensor_parallel_size {size}: {there} GPUs are there; lower it"
    if engine == "vllm" and vllm is not None and vllm.load_format == "dummy":
        yield "--vllm.load_format dummy: those are random weights, and here no training replaces them: take auto"


def resolve_device(device: str) -> str:
    """`auto` takes a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto` is bfloat16 on a GPU and float32 on a CPU; `device` is a resolved one."""
    return ("float32" if device == "cpu" else "bfloat16") if dtype == "auto" else dtype


def longest_prompt(allowed: int, max_tokens: int, engine: str, vllm: VLLMSettings) -> int:
    """Tokens of a prompt that the engine has room for beside a completion of `max_tokens`: longer ones fail by themselves."""
    if engine == "native" or vllm.max_model_len is None:
        return allowed
    return min(allowed, vllm.max_model_len - max_tokens)


def load_model(name_or_path: str, device: str, dtype: str) -> QwenVL:
    """A folder's or hub model's weights, for inference; device and dtype may be `auto`.

    Raises:
        ModelError: not a Qwen-VL model.
    """
    device = resolve_device(device)
    return QwenVL.from_pretrained(name_or_path, resolve_dtype(dtype, device)).to(device).eval()


def start_engine(
    engine: str, builder: PromptBuilder, *, max_tokens: int, device: str, dtype: str, vllm: VLLMSettings
) -> RolloutEngine:
    """Load the builder's model for prompts of its own, and completions of `max_tokens`; `engine` is `native` or `vllm`.

    Raises:
        ModelError: the weights can't be loaded.
        EngineError: vLLM is not installed, or can't run the model.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    if engine == "native":
        return NativeEngine(load_model(builder.name_or_path, device, dtype), builder.end_ids)
    longest = builder.max_tokens + max_tokens
    return VLLMEngine(EngineModel.of(builder, max_model_len=longest, dtype=dtype, device=device.split(":")[0]), vllm)


class ModelSettings(Protocol):
    """What all that ask a model have in common; each says in its own settings what it is."""

    model: str
    engine: str
    max_tokens: int
    repetition_penalty: float
    device: str
    dtype: str
    vllm: VLLMSettings
    grounding: GroundingSettings | None


@dataclass(frozen=True)
class AskedModel:
    """All that the answers of a model follow from, but its weights and what it is asked."""

    settings: ModelSettings
    grounding: GroundingSettings
    builder: PromptBuilder
    sampling: SamplingSettings

    @classmethod
    def load(cls, settings: ModelSettings, *, evaluating: bool, temperature: float = 0.0) -> AskedModel:
        """
        Args:
            settings: of the command.
            evaluating: whether videos are shown as evaluation shows them, and not as training does.
            temperature: of the answers.

        Raises:
            ModelError: not a Qwen-VL model.
        """
        grounding = settings.grounding or GroundingSettings.load(settings.model) or GroundingSettings()
        if evaluating:
            grounding = grounding.for_evaluation()
        longest = longest_prompt(grounding.max_prompt_tokens, settings.max_tokens, settings.engine, settings.vllm)
        builder = PromptBuilder(settings.model, grounding.prompt, longest)
        sampling = SamplingSettings(temperature, settings.max_tokens, settings.repetition_penalty)
        return cls(settings, grounding, builder, sampling)

    def start(self) -> RolloutEngine:
        """With the weights. Raises as `start_engine`."""
        settings = self.settings
        return start_engine(
            settings.engine,
            self.builder,
            max_tokens=settings.max_tokens,
            device=settings.device,
            dtype=settings.dtype,
            vllm=settings.vllm,
        )


def start_training_engine(
    engine: str,
    policy: QwenVL,
    builder: PromptBuilder,
    *,
    max_model_len: int,
    device: str,
    dtype: str,
    rows: int,
    vllm: VLLMSettings,
    vllm_server: VLLMServerSettings,
) -> RolloutEngine:
    """What makes rollouts for a policy in training: `native`, the policy itself; `vllm` or `vllm_server`, which get its weights
    later. `rows` completions are decoded together by the native engine, of at most `max_model_len` tokens with their prompt."""
    if engine == "native":
        return NativeEngine(policy, builder.end_ids, rows)
    model = EngineModel.of(builder, max_model_len=max_model_len, dtype=dtype, device=device)
    return VLLMServerEngine(model, vllm_server) if engine == "vllm_server" else VLLMEngine(model, vllm)
