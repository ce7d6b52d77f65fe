"""Costs shared out so that no part has much more than the others. Plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence


def imbalance(costs: Sequence[float], parts: Sequence[Sequence[int]]) -> float:
    """The share by which the part with the most is above the mean: 0 where all are even, and where there is nothing."""
    sums = [sum(costs[number] for number in part) for part in parts]
    mean = sum(sums) / len(sums)
    return max(sums) / mean - 1 if mean > 0 else 0.0


def divide(costs: Sequence[float], count: int) -> list[list[int]]:
    """The numbers of all costs in so many parts, each in order: the largest first, each to the part that has least so far, and
    then evened out."""
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0.0] * count
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        least = sums.index(min(sums))
        parts[least].append(number)
        sums[least] += costs[number]
    return even_out(costs, parts)


def even_out(costs: Sequence[float], parts: Sequence[Sequence[int]], allowed: float = 0.0) -> list[list[int]]:
    """Parts with the same numbers, each in order: from the part with the most one is moved to another part, or is exchanged for
    one of another, the way that leaves the larger of the two smallest, until the part with the most is at most the share
    `allowed` above the mean, or nothing makes it smaller. What is even already stays, and little moves else.

    Args:
        costs: not negative, of each number.
        parts: the numbers, each in one of them.
    """
    now = [set(part) for part in parts]
    sums = [sum(costs[number] for number in part) for part in now]
    enough = (1 + allowed) * sum(sums) / len(sums)
    while (most := max(sums)) > enough:
        largest = sums.index(most)
        best, change = most * (1 - 1e-9), None  # less would be roundings, and may have no end
        for other, part in enumerate(now):
            for given in sorted(now[largest]) if other != largest else ():
                for taken in (None, *sorted(part)):
                    less = costs[given] - (0.0 if taken is None else costs[taken])
                    larger = max(most - less, sums[other] + less)
                    if larger < best:
                        best, change = larger, (other, given, taken)
        if change is None:
            break
        other, given, taken = change
        swapped = {given} if taken is None else {given, taken}
        for place in (largest, other):
            now[place] ^= swapped
            sums[place] = sum(costs[number] for number in sorted(now[place]))
    return [sorted(part) for part in now]
