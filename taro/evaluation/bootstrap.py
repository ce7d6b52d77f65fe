"""How far a mean over samples may be off: the percentile bootstrap (Efron, 1979). `N` samples, `K` metrics, `R` resamples.

Samples are drawn one by one. Queries of one video are a little alike, so intervals are a little narrow.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000
SEED = 0
COVERAGE = 0.95  # share of the resamples that an interval holds
CHUNK = 2**22  # draws that are held in memory at once


def resample_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Means (R, K) of as many samples as there are, drawn with replacement, whose values are (N, K).

    All columns share the draws, and the same seed draws the same samples.
    """
    generator, count = np.random.default_rng(seed), len(values)
    at_once = max(1, CHUNK // count)
    means = np.empty((resamples, values.shape[1]))  # (R, K)
    for start in range(0, resamples, at_once):
        part = means[start : start + at_once]
        rows = np.arange(len(part))[:, None]
        drawn = generator.integers(count, size=(len(part), count)) + rows * count
        times = np.bincount(drawn.ravel(), minlength=len(part) * count).reshape(len(part), count)  # each sample is drawn
        part[:] = times @ values / count
    return means


def percentile_intervals(means: np.ndarray) -> np.ndarray:
    """Lower and upper ends, (K, 2), from the means of `resample_means`, (R, K)."""
    tail = 50 * (1 - COVERAGE)
    return np.percentile(means, [tail, 100 - tail], axis=0).T


def two_sided_p_values(differences: np.ndarray) -> np.ndarray:
    """How easily chance turns the signs of mean differences, (K,), from their resampled means, (R, K): twice the smaller of
    the shares at or below 0 and at or above it, with one added to count and total, so that it is never 0; at most 1."""
    sides = np.stack([(differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0)])  # (2, K)
    return np.minimum(1.0, 2 * (sides.min(axis=0) + 1) / (len(differences) + 1))
