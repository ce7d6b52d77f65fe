"""Rewards: what a completion is worth. One file a method; `taro.rl.rewards.choose` has them by their short names.

Their maths takes spans, (start, end) in seconds; a reward takes a `Completion`, or a group of them.
"""

from taro.rl.rewards.completion import Completion
from taro.rl.rewards.taro import best_truth, format_reward, temporal_reward, timestamp_iou_reward

__all__ = ["Completion", "best_truth", "format_reward", "temporal_reward", "timestamp_iou_reward"]
