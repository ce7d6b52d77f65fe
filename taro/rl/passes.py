"""Passes of a step over its packs. Where weights are sharded each pass takes all ranks, however many packs each of them has."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar

from lightning.pytorch.strategies import Strategy

from taro.distributed import gather, world_size
from taro.models.packing import plan_even_packs
from taro.models.pass_cost import PassCost
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import ShardedStrategy, gathered
from taro.rl.balance import balance
from taro.rl.group import Group
from taro.rl.step_log import StepLog

Item = TypeVar("Item")


def make_packs(
    groups: Sequence[Group], policy: QwenVL, strategy: Strategy, log: StepLog, budget: int, allowed: float
) -> list[list[Group]]:
    """The groups in packs of at most `budget` tokens where a group has no more itself. Ranks exchange groups until none has
    more than the share `allowed` of work above the mean. All ranks call this."""
    cost = PassCost.of_model(policy)
    if world_size() > 1:
        with log.timed("exchange"):
            balanced = balance(groups, [cost(group.packed) for group in groups], allowed, policy.device)
        groups = balanced.groups
        log.add_max("ranks/imbalance_before", balanced.before)
        log.add_max("ranks/imbalance", balanced.after)
    sizes, costs = [len(group.packed) for group in groups], [cost(group.packed) for group in groups]
    packs = plan_even_packs(sizes, costs, budget)
    if isinstance(strategy, ShardedStrategy):  # they wait for each other in each pass: as many, the longest first
        packs = plan_even_packs(sizes, costs, budget, max(gather(len(packs))))
        packs.sort(key=lambda members: -sum(costs[number] for number in members))
    return [[groups[number] for number in members] for members in packs]


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
