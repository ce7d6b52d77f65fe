"""From prompts to groups: what an engine is asked for, and what comes of it.

F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from taro.data.examples import TrainingExample
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL, VisionFeatures
from taro.models.sharding import gathered
from taro.rl.group import Group, make_group
from taro.rollout import RolloutGroup, RolloutPrompt, SamplingSettings
from taro.seeds import stable_seed


class Samples(Protocol):
    """What a step needs of its engine."""

    is_policy: bool

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]: ...


def roll_out(
    examples: Sequence[TrainingExample],
    engine: Samples,
    policy: QwenVL,
    encode: Callable[[TrainingExample], VisionFeatures],
    builder: PromptBuilder,
    sampling: SamplingSettings,
    shuffled: int = 0,
) -> list[Group]:
    """The group of each prompt, and so many completions beside it on the video with its frames `shuffled`."""
    with gathered(policy):
        features = [encode(example) for example in examples]
        requests = make_requests(examples, features, policy, engine, shuffled)
    rollouts = engine.generate(requests, sampling)
    others = rollouts[len(examples) :] if shuffled else [None] * len(examples)
    return [
        make_group(example, rollout, feature, builder, other)
        for example, rollout, feature, other in zip(examples, rollouts[: len(examples)], features, others, strict=True)
    ]


def make_requests(
    examples: Sequence[TrainingExample],
    features: Sequence[VisionFeatures | None],
    policy: QwenVL,
    engine: Samples,
    shuffled: int = 0,
) -> list[RolloutPrompt]:
    """What is asked for: the group of each prompt, then those on the shuffled videos, if any."""
    groups = [
        RolloutPrompt(example.prompt, example.prefixes, example.seeds, feature)
        for example, feature in zip(examples, features, strict=True)
    ]
    return groups + [shuffled_request(example, shuffled, policy, engine) for example in examples if shuffled]


def shuffled_request(example: TrainingExample, count: int, policy: QwenVL, engine: Samples) -> RolloutPrompt:
    """T-GRPO's second, smaller group (Video-R1, arXiv 2503.21776): the same request about a video whose frames are in a random
    order. Only the pictures move, a place keeps its time, as in the released code. The order, and the seeds, follow from those
    of the group."""
    seed, video = example.seeds[0], example.prompt.video
    generator = torch.Generator().manual_seed(stable_seed("frames", seed))
    order = torch.randperm(len(video.frames), generator=generator)  # (F,)
    frames = video.frames[order.to(video.frames.device)]
    seeds = tuple(stable_seed("shuffled", seed, number) for number in range(count))
    prompt = replace(example.prompt, video=replace(video, frames=frames))
    return RolloutPrompt(prompt, ((),) * count, seeds, policy.encode_video(frames) if engine.is_policy else None)
