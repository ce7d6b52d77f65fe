"""Rollouts: the protocol of engines, and the native engine."""

from taro.rl.rollout.engine import RolloutEngine, RolloutGroup, RolloutPrompt, SamplingSettings
from taro.rl.rollout.native import NativeEngine

__all__ = ["NativeEngine", "RolloutEngine", "RolloutGroup", "RolloutPrompt", "SamplingSettings"]
