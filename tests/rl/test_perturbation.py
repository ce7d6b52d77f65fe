import itertools

import pytest
import torch

from taro.rl.perturbation import FrameShuffle

TIMES = torch.arange(40) / 2  # 2 fps, 20 s


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def window(times, boundary, radius):
    return [i for i, time in enumerate(times.tolist()) if abs(time - boundary) <= radius]


def moved(permutation):
    return [i for i, source in enumerate(permutation.tolist()) if i != source]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("boundaries", [[5.0], [5.0, 14.0], [0.0, 19.5], [4.25, 8.1], [7.0, 7.0], [-1.0, 30.0]])
def test_frames_move_within_their_windows_only(boundaries, seed):
    permutation = FrameShuffle(radius=2.0)(TIMES, torch.tensor(boundaries), seeded(seed))
    assert permutation.dtype == torch.int64
    assert sorted(permutation.tolist()) == list(range(40))
    windows = [set(window(TIMES, boundary, 2.0)) for boundary in boundaries]
    if len(windows) == 2 and windows[0] & windows[1]:
        windows = [windows[0] | windows[1]]
    for members in windows:
        assert {int(permutation[i]) for i in members} == members
        assert not members or any(int(permutation[i]) != i for i in members)
    assert set(moved(permutation)) <= set().union(*windows)


def test_window_includes_both_ends_and_the_default_radius_is_three_seconds():
    seen = set()
    for seed in range(30):
        seen.update(moved(FrameShuffle()(TIMES, torch.tensor([8.0]), seeded(seed))))
    assert seen == set(range(10, 23))  # 5.0 s to 11.0 s


def test_same_seed_same_permutation_and_other_seeds_differ():
    draw = [FrameShuffle()(TIMES, torch.tensor([8.0, 15.0]), seeded(seed)).tolist() for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_all_orders_but_the_identity_are_drawn_equally():
    generator, counts = seeded(0), {}
    for _ in range(3000):
        drawn = tuple(FrameShuffle(radius=0.5)(TIMES[:3], torch.tensor([0.5]), generator).tolist())
        counts[drawn] = counts.get(drawn, 0) + 1
    expected = set(itertools.permutations(range(3))) - {(0, 1, 2)}
    assert {order: count / 3000 for order, count in counts.items()} == pytest.approx(
        dict.fromkeys(expected, 0.2), abs=0.03
    )


def test_windows_are_shuffled_in_turn_so_frames_travel_through_the_overlap():
    travelled = 0
    for seed in range(40):
        permutation = FrameShuffle(radius=2.0)(TIMES, torch.tensor([6.0, 9.0]), seeded(seed))
        assert max(permutation[8:14].tolist()) <= 16  # before the second window only frames of the first
        travelled += any(int(permutation[i]) < 14 for i in range(17, 23))
    assert travelled > 20


@pytest.mark.parametrize("seed", range(20))
def test_a_second_window_does_not_undo_the_first(seed):
    permutation = FrameShuffle(radius=0.3)(TIMES, torch.tensor([5.25, 5.25]), seeded(seed))
    assert moved(permutation) == [10, 11]


@pytest.mark.parametrize("boundaries", [[3.2], [50.0], []])
def test_windows_with_fewer_than_two_frames_are_left_alone(boundaries):
    assert torch.equal(FrameShuffle(radius=0.25)(TIMES, torch.tensor(boundaries), seeded(0)), torch.arange(40))


def test_identity_draws_end_in_a_rotation(monkeypatch):
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))
    permutation = FrameShuffle(radius=1.0)(TIMES[:6], torch.tensor([1.0]), seeded(0))
    assert permutation.tolist() == [4, 0, 1, 2, 3, 5]


def test_errors_say_what_was_got():
    for radius in (0, -1.0):
        with pytest.raises(ValueError, match=f"radius must be a number of seconds > 0, got {radius}"):
            FrameShuffle(radius=radius)
    with pytest.raises(ValueError, match=r"got \(40,\) and \(1, 2\)"):
        FrameShuffle()(TIMES, torch.tensor([[1.0, 2.0]]), seeded(0))
