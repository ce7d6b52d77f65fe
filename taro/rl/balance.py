"""Groups that ranks exchange so that each has about as much to do in its passes: all wait for the one that has most.

A group travels whole, with its frames and features, before its passes. What is summed over the groups of a step is the same on
any ranks, but for roundings.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from taro.distributed import exchange, gather, global_rank
from taro.partition import even_out, imbalance
from taro.rl.group import Group


@dataclass(frozen=True)
class Balanced:
    """What a rank has after the exchange."""

    groups: list[Group]
    before: float  # share by which the rank with the most to do was above the mean of all
    after: float


def balance(groups: Sequence[Group], costs: Sequence[float], allowed: float, device: torch.device) -> Balanced:
    """Exchange groups until no rank has more than the share `allowed` above the mean, or as near as moves of one group and
    exchanges of two come. All ranks call this.

    Args:
        costs: of this rank's groups.
        device: of the groups.
    """
    ranks = gather(list(costs))
    ends = accumulate((len(rank) for rank in ranks), initial=0)
    now = [list(range(*ends_of)) for ends_of in pairwise(ends)]  # numbers of each rank's groups
    of_all = [cost for rank in ranks for cost in rank]
    planned = even_out(of_all, now, allowed)
    mine = dict(zip(now[global_rank()], groups, strict=True))
    if planned != now:
        leaving = [{number: group for number, group in mine.items() if number in wanted} for wanted in planned]
        stays, leaving[global_rank()] = leaving[global_rank()], {}
        come = [unwrap(parcel, device) for parcel in exchange([wrap(part) for part in leaving], device)]
        mine = {number: group for part in (stays, *come) for number, group in part.items()}
    return Balanced([mine[number] for number in sorted(mine)], imbalance(of_all, now), imbalance(of_all, planned))


def wrap(groups: dict[int, Group]) -> bytes:
    file = io.BytesIO()
    torch.save(groups, file)
    return file.getvalue()


def unwrap(parcel: bytes, device: torch.device) -> dict[int, Group]:
    """What was on a device is on this rank's; what was on the CPU stays there."""

    def place(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        return storage if location == "cpu" else torch.serialization.default_restore_location(storage, str(device))

    return torch.load(io.BytesIO(parcel), map_location=place, weights_only=False)
