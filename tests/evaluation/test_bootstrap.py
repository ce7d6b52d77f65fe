import numpy as np
import pytest

from taro.evaluation import bootstrap
from taro.evaluation.bootstrap import percentile_intervals, resample_means, two_sided_p_values


def test_means_are_those_of_drawn_samples():
    """Against drawing and averaging one resample after the other."""
    values = np.random.default_rng(5).random((40, 3))
    generator = np.random.default_rng(7)
    slow = [values[generator.integers(40, size=40)].mean(axis=0) for _ in range(200)]
    np.testing.assert_allclose(resample_means(values, resamples=200, seed=7), slow)


def test_chunks_change_nothing(monkeypatch):
    values = np.random.default_rng(0).random((30, 2))
    whole = resample_means(values, 100)
    monkeypatch.setattr(bootstrap, "CHUNK", 70)  # two resamples at once
    np.testing.assert_allclose(resample_means(values, 100), whole)


def test_the_interval_of_a_share_is_that_of_theory():
    """A share p of N samples: p +- 1.96 sqrt(p (1 - p) / N)."""
    values = (np.arange(1000) < 300).astype(float)[:, None]
    ((low, high),) = percentile_intervals(resample_means(values, 4000))
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert low == pytest.approx(0.3 - half, abs=0.002) and high == pytest.approx(0.3 + half, abs=0.002)


def test_intervals_hold_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(300):
        ((low, high),) = percentile_intervals(resample_means(generator.normal(size=(60, 1)), 400, seed))
        held += low <= 0 <= high
    assert 0.91 < held / 300 < 0.985


def test_one_sample_has_no_width():
    assert percentile_intervals(resample_means(np.array([[0.25]]), 10)).tolist() == [[0.25, 0.25]]


def test_p_values():
    differences = np.array([[1.0, -1.0, 0.0, 1.0]] * 98 + [[1.0, -1.0, 0.0, -1.0]])
    np.testing.assert_allclose(two_sided_p_values(differences), [0.02, 0.02, 1.0, 0.04])


def test_p_values_of_nothing_are_spread_evenly():
    generator = np.random.default_rng(4)
    p_values = two_sided_p_values(
        np.hstack([resample_means(generator.normal(size=(80, 1)), 300, seed) for seed in range(300)])
    )
    assert 0.02 < (p_values < 0.05).mean() < 0.09 and 0.4 < (p_values < 0.5).mean() < 0.6
