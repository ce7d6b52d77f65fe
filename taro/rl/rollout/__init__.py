"""Rollouts: the protocol of engines, the native engine, and vLLM."""

from taro.rl.rollout.engine import EngineError, RolloutEngine, RolloutGroup, RolloutPrompt, SamplingSettings
from taro.rl.rollout.native import NativeEngine
from taro.rl.rollout.seam import SeamError
from taro.rl.rollout.vllm import EngineModel, VLLMEngine, VLLMSettings

__all__ = [
    "EngineError",
    "EngineModel",
    "NativeEngine",
    "RolloutEngine",
    "RolloutGroup",
    "RolloutPrompt",
    "SamplingSettings",
    "SeamError",
    "VLLMEngine",
    "VLLMSettings",
]
