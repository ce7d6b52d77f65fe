import math
from dataclasses import replace

import pytest
import torch

from taro.data.difficulties import DifficultyError, draw_weights, mean_ious, normal_over_density
from taro.data.samples import Sample

SAMPLE = Sample("a", "a.mp4", "x", ((1.0, 2.0),), 10.0)


def samples_of(*difficulties):
    return [replace(SAMPLE, id=f"q{n}", extra={"difficulty": value}) for n, value in enumerate(difficulties)]


def test_what_is_solved_is_not_drawn():
    assert draw_weights(samples_of(0, 50, 100), "timelens2").tolist() == [1.0, 0.25, 0.0]
    with pytest.raises(DifficultyError, match="timelens2: all 2 samples are solved"):
        draw_weights(samples_of(100, 100), "timelens2")


def test_a_normal_over_the_density():
    """A bin with many samples is drawn from as often as the normal says, not more."""
    ious = [0.01, 0.02, 0.04, 0.06, 1.0]
    expected = [math.exp(-((iou - 0.05) ** 2) / 0.08) / count for iou, count in zip(ious, (3, 3, 3, 1, 1), strict=True)]
    found = draw_weights(samples_of(*(100 * iou for iou in ious)), "timelens")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    evenly = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    crowded = torch.cat([evenly, evenly[:1].expand(30)])
    first, second = (normal_over_density(ious) for ious in (evenly, crowded))
    torch.testing.assert_close(second[crowded < 0.05].sum(), first[0])


def test_difficulties_that_are_not_there():
    assert mean_ious(samples_of(25, None)) == {"q0": 0.25}
    with pytest.raises(DifficultyError, match=r"timelens: 1 of 2 training samples have no difficulty:\n- q1\nScore them"):
        draw_weights(samples_of(25, None), "timelens")
    with pytest.raises(DifficultyError, match=r"1 difficulties can't be read:\n- q0: difficulty: got 101"):
        mean_ious(samples_of(101))
