"""Passes of a step over its packs. Where weights are sharded each pass takes all ranks, however many packs each of them has."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

from lightning.pytorch.strategies import Strategy

from taro.distributed import gather
from taro.models.packing import plan_packs
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import ShardedStrategy, gathered
from taro.rl.group import Group

Item = TypeVar("Item")


def make_packs(groups: Sequence[Group], budget: int) -> list[list[Group]]:
    """The groups, in their order, in packs of at most `budget` tokens where a group has no more itself."""
    return [[groups[i] for i in members] for members in plan_packs([len(group.packed) for group in groups], budget)]


def passes(packs: list[list[Item]], policy: QwenVL, strategy: Strategy) -> Iterator[list[Item]]:
    """The packs; ranks that share weights and have fewer packs than others go on with empty ones."""
    if not isinstance(strategy, ShardedStrategy):
        yield from packs
        return
    count = max(gather(len(packs)))
    with gathered(policy):  # ranks encode different numbers of shuffled videos
        for number in range(count):
            last = number == count - 1
            policy.set_requires_gradient_sync(last or strategy.gradient_sync == "pack")
            yield packs[number] if number < len(packs) else []


def on_any_rank(flags: list[bool], strategy: Strategy) -> list[bool]:
    """For each pass whether this rank's flag is set or, where ranks share weights, that of any of them."""
    ranks = gather(flags) if isinstance(strategy, ShardedStrategy) else [flags]
    return [any(of_pass) for of_pass in itertools.zip_longest(*ranks, fillvalue=False)]
