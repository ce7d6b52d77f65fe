import itertools
import math

import pytest
import torch

from taro.rl.rewards import best_truth, format_reward, temporal_reward, timestamp_iou_reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [("<think>a</think>\n<answer>1s to 2s</answer>", 1.0), ("<answer>1s to 2s</answer>", 0.0)],
)
def test_format_reward(text, reward):
    assert format_reward(text) == reward
    assert isinstance(format_reward(text), float)


@pytest.mark.parametrize(
    ("span", "truth", "duration", "reward"),
    [
        ((2.0, 6.0), (2.0, 6.0), 10.0, 1.0),
        ((2.0, 6.0), (4.0, 8.0), 10.0, 1 / 3 * 0.8 * 0.8),
        ((0.0, 10.0), (2.0, 5.0), 10.0, 0.3 * 0.8 * 0.5),
        ((2.0, 10.0), (2.0, 14.0), 10.0, 1.0),  # the truth ends after the video
        ((0.0, 4.0), (-2.0, 4.0), 10.0, 1.0),
        ((0.0, 25.0), (0.0, 10.0), 10.0, 0.0),  # off by more than the duration
        ((0.0, 15.0), (0.0, 10.0), 10.0, 2 / 3 * 0.5),  # the answer is not cut
        ((2.0, 6.0), (14.0, 16.0), 10.0, 0.0),  # the truth lies outside
        ((2.0, 6.0), (4.0, 4.0), 10.0, 0.0),
        ((6.0, 2.0), (2.0, 6.0), 10.0, 0.0),
        ((2.0, 4.0), (4.0, 6.0), 10.0, 0.0),
        (None, (2.0, 6.0), 10.0, 0.0),
    ],
)
def test_timestamp_iou_reward(span, truth, duration, reward):
    assert timestamp_iou_reward(span, truth, duration) == pytest.approx(reward, abs=1e-12)


def test_timestamp_iou_reward_of_all_spans_on_a_grid():
    duration, step = 6, 0.5
    cells = [(i * step, (i + 1) * step) for i in range(20)]
    for start, end in itertools.combinations(range(11), 2):
        for truth in [(0.0, 6.0), (1.5, 4.0), (5.0, 9.0)]:
            cut_end = min(truth[1], duration)
            inside = [start * step <= a and b <= end * step for a, b in cells]
            true = [truth[0] <= a and b <= cut_end for a, b in cells]
            iou = sum(map(min, inside, true)) / sum(map(max, inside, true))
            expected = iou * (1 - abs(start * step - truth[0]) / 6) * (1 - abs(end * step - cut_end) / 6)
            assert timestamp_iou_reward((start * step, end * step), truth, duration) == pytest.approx(expected)


@pytest.mark.parametrize("duration", [0, -1.0, math.nan])
def test_timestamp_iou_reward_needs_a_duration(duration):
    with pytest.raises(ValueError, match="duration must be"):
        timestamp_iou_reward((1, 2), (1, 2), duration)


def test_best_truth_has_the_highest_iou():
    truths = [(0.0, 2.0), (4.0, 9.0), (5.0, 8.0)]
    assert best_truth((5.0, 7.5), truths) == (5.0, 8.0)
    assert best_truth((0.0, 1.0), truths) == (0.0, 2.0)
    assert best_truth(None, truths) == (0.0, 2.0)
    with pytest.raises(ValueError, match="at least one true span"):
        best_truth((0.0, 1.0), [])


def slow_temporal_reward(gaps, ious, bonus, gate, margin, threshold):
    finite = [gap for gap in gaps if math.isfinite(gap)]
    if threshold == "mean":
        threshold = sum(finite) / len(finite) + margin if finite else math.inf
    return [bonus if math.isfinite(g) and g > threshold and i >= gate else 0.0 for g, i in zip(gaps, ious, strict=True)]


@pytest.mark.parametrize(
    ("gaps", "ious", "settings", "expected"),
    [
        ([0.1, 0.3, 0.2], [0.9, 0.9, 0.9], {}, [0, 0.3, 0]),  # the mean itself does not earn
        ([1.0, 1.0], [1.0, 1.0], {}, [0, 0]),
        ([0.0, 1.0, 2.0, 3.0], [0.7, 0.7, 0.7, 0.69], {}, [0, 0, 0.3, 0]),  # an IoU at the gate earns
        ([0.0, 1.0, 2.0, 3.0], [1.0] * 4, {"margin": 0.5}, [0, 0, 0, 0.3]),  # 2 is the mean + margin
        ([0.0, 1.0, 2.0, 3.0], [1.0] * 4, {"threshold": 1.0, "margin": 9.0}, [0, 0, 0.3, 0.3]),
        ([0.0, 1.0], [0.4, 0.5], {"bonus": 2.0, "iou_gate": 0.5}, [0, 2.0]),
        ([math.nan, math.inf, 1.0, 2.0], [1.0] * 4, {}, [0, 0, 0, 0.3]),
        ([math.inf, -math.inf], [1.0] * 2, {"threshold": 0.0}, [0, 0]),
        ([math.nan, math.nan], [1.0] * 2, {}, [0, 0]),
        ([0.0, 1.0], [1.0, math.nan], {}, [0, 0]),
        ([1.0], [1.0], {}, [0]),
    ],
)
def test_temporal_reward_by_hand(gaps, ious, settings, expected):
    rewards = temporal_reward(torch.tensor(gaps), torch.tensor(ious), **settings)
    torch.testing.assert_close(rewards, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("threshold", ["mean", 0.25])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_temporal_reward_matches_the_slow_version(threshold, margin):
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        gaps = torch.randn(8, generator=generator, dtype=torch.float64)
        gaps[torch.rand(8, generator=generator) < 0.2] = math.nan
        ious = torch.rand(8, generator=generator, dtype=torch.float64)
        expected = slow_temporal_reward(gaps.tolist(), ious.tolist(), 0.4, 0.5, margin, threshold)
        rewards = temporal_reward(gaps, ious, bonus=0.4, iou_gate=0.5, margin=margin, threshold=threshold)
        assert rewards.tolist() == expected


def test_temporal_reward_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        temporal_reward(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="got 'median'"):
        temporal_reward(torch.zeros(2), torch.zeros(2), threshold="median")
