"""Rollouts: the protocol of engines, the native engine, and vLLM in this process or as a server."""

from taro.rl.rollout.engine import EngineError, RolloutEngine, RolloutGroup, RolloutPrompt, SamplingSettings
from taro.rl.rollout.native import NativeEngine
from taro.rl.rollout.policy_engine import PolicyEngine
from taro.rl.rollout.seam import SeamError
from taro.rl.rollout.vllm import VLLMEngine, VLLMSettings
from taro.rl.rollout.vllm_prompts import EngineModel
from taro.rl.rollout.vllm_server import VLLMServerEngine, VLLMServerSettings

__all__ = [
    "EngineError",
    "EngineModel",
    "NativeEngine",
    "PolicyEngine",
    "RolloutEngine",
    "RolloutGroup",
    "RolloutPrompt",
    "SamplingSettings",
    "SeamError",
    "VLLMEngine",
    "VLLMServerEngine",
    "VLLMServerSettings",
    "VLLMSettings",
]
