"""Rollouts: the protocol of engines, the native engine, and vLLM in this process or as a server."""

from taro.rollout.engine import EngineError, RolloutEngine, RolloutGroup, RolloutPrompt, SamplingSettings, SyncedEngine
from taro.rollout.native import NativeEngine
from taro.rollout.vllm import VLLMEngine, VLLMSettings
from taro.rollout.vllm_prompts import EngineModel, PromptMismatch
from taro.rollout.vllm_server import VLLMServerEngine, VLLMServerSettings

__all__ = [
    "EngineError",
    "EngineModel",
    "NativeEngine",
    "PromptMismatch",
    "RolloutEngine",
    "RolloutGroup",
    "RolloutPrompt",
    "SamplingSettings",
    "SyncedEngine",
    "VLLMEngine",
    "VLLMServerEngine",
    "VLLMServerSettings",
    "VLLMSettings",
]
