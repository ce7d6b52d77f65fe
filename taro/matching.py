"""Matchings of rows with columns that have the largest sum of gains: in order, or in any order.

N rows, M columns; `gains[i][j]` >= 0 is what pairing row i with column j is worth.
"""

import math
from collections.abc import Sequence

Gains = Sequence[Sequence[float]]
Pairs = list[tuple[int, int]]


def match_in_order(gains: Gains) -> Pairs:
    """The best matching without crossings, by dynamic programming: of two pairs, the one with the later row has the later
    column. Pairs that gain nothing are left out."""
    rows, columns = len(gains), len(gains[0]) if gains else 0
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]  # (N + 1, M + 1) of the first i rows and j columns
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            best[i][j] = max(best[i - 1][j], best[i][j - 1], best[i - 1][j - 1] + gains[i - 1][j - 1])
    pairs, i, j = [], rows, columns
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def match_freely(gains: Gains) -> Pairs:
    """The best matching (Hungarian method: one augmenting path for each row, found with potentials as a shortest path). Pairs
    that gain nothing are left out."""
    if not gains or not gains[0]:
        return []
    if len(gains) > len(gains[0]):
        return sorted((i, j) for j, i in match_freely(list(zip(*gains, strict=True))))
    rows, columns = len(gains), len(gains[0])
    row_of: list[int | None] = [None] * columns
    price_of_row, price_of_column = [0.0] * rows, [0.0] * columns
    for new in range(rows):
        # Columns in the order of their distance from the new row, over columns that are taken, until one is free.
        distance, came_from = [math.inf] * columns, [-1] * columns
        reached: list[int] = []
        row, at, column = new, 0.0, -1
        while True:
            for j in set(range(columns)) - set(reached):
                through = at - gains[row][j] - price_of_row[row] - price_of_column[j]
                if through < distance[j]:
                    distance[j], came_from[j] = through, column
            column = min(set(range(columns)) - set(reached), key=lambda j: distance[j])
            reached.append(column)
            at = distance[column]
            if row_of[column] is None:
                break
            row = row_of[column]
        price_of_row[new] += at
        for j in reached[:-1]:
            price_of_row[row_of[j]] += at - distance[j]
            price_of_column[j] -= at - distance[j]
        while column >= 0:  # back along the path, each row moves to the next column
            before = came_from[column]
            row_of[column] = new if before < 0 else row_of[before]
            column = before
    return sorted((i, j) for j, i in enumerate(row_of) if i is not None and gains[i][j] > 0)
