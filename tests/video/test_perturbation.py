import itertools

import pytest
import torch

from taro.video.perturbation import FrameShuffle, SpanShuffle, shuffle_elsewhere

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


@pytest.mark.slow
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


@pytest.mark.parametrize("seed", range(5))
def test_frames_move_inside_their_spans_only(seed):
    permutation = SpanShuffle()(TIMES, torch.tensor([2.0, 4.5, 10.0, 10.5]), seeded(seed))
    for first, last in ((4, 9), (20, 21)):
        inside = permutation[first : last + 1].tolist()
        assert sorted(inside) == list(range(first, last + 1)) != inside
    assert set(moved(permutation)) <= {*range(4, 10), 20, 21}


def test_a_span_of_one_frame_is_left_alone():
    assert torch.equal(SpanShuffle()(TIMES, [3.1, 3.6], seeded(0)), torch.arange(40))


def test_frames_out_of_order_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        shuffle_elsewhere(TIMES.flip(0), [5.0], [5.0], 1.0, seeded(0))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("boundaries", [[5.0], [4.0, 12.0], [6.0, 7.5], [0.0, 19.5], [7.0, 7.0]])
def test_control_moves_as_many_frames_away_from_the_boundaries(boundaries, seed):
    avoid = [*boundaries, 9.0]
    permutation = shuffle_elsewhere(TIMES, torch.tensor(boundaries), torch.tensor(avoid), 1.0, seeded(seed))
    assert sorted(permutation.tolist()) == list(range(40))
    assert all(abs(TIMES[i] - boundary) > 1.0 for i in moved(permutation) for boundary in avoid)
    assert torch.equal(permutation, shuffle_elsewhere(TIMES, boundaries, avoid, 1.0, seeded(seed)))


@pytest.mark.parametrize("boundaries", [[5.0], [4.0, 12.0], [6.0, 7.5], [0.0, 19.5]])
def test_control_reaches_the_window_sizes_of_the_real_one_and_many_places(boundaries):
    size = sum(any(abs(time - b) <= 1.0 for b in boundaries) for time in TIMES.tolist())
    draws = [moved(shuffle_elsewhere(TIMES, boundaries, boundaries, 1.0, seeded(seed))) for seed in range(60)]
    assert max(map(len, draws)) == size
    allowed = {i for i, time in enumerate(TIMES.tolist()) if all(abs(time - b) > 1.0 for b in boundaries)}
    assert len(set().union(*map(set, draws))) > len(allowed) * 0.8


def test_control_without_room_is_none():
    assert shuffle_elsewhere(TIMES, [10.0], [10.0], 5.0, seeded(0)) is None  # 21 frames; 9 and 10 are left
    assert shuffle_elsewhere(TIMES[:4], [10.0, 0.5], [10.0, 0.5], 9.0, seeded(0)) is None
    assert shuffle_elsewhere(TIMES, [10.0], [10.0], 3.0, seeded(0)) is not None  # 13 frames; 14 and 13 are left


@pytest.mark.parametrize("seed", range(20))
def test_control_finds_the_only_place(seed):
    # Windows of 5 frames at 1 s and 4 s, free are the frames 11 to 20 alone: one window fills 11-15, the other 16-20.
    permutation = shuffle_elsewhere(TIMES, [1.0, 4.0], [1.0, 4.0, *(11.25 + i for i in range(10))], 1.0, seeded(seed))
    assert {int(permutation[i]) for i in range(11, 16)} == set(range(11, 16))
    assert {int(permutation[i]) for i in range(16, 21)} == set(range(16, 21))
    assert set(moved(permutation)) <= set(range(11, 21))


@pytest.mark.parametrize("seed", range(20))
def test_control_places_the_longest_window_first(seed):
    # Windows of 3 frames at 0 s and of 5 at 4 s; free are the frames 12 to 16 and 21 to 23.
    taken = [0.0, 2.0, 4.0, 4.5, 9.25, 12.75, *(13.5 + i for i in range(7))]
    permutation = shuffle_elsewhere(TIMES, [0.0, 4.0], taken, 1.0, seeded(seed))
    assert {int(permutation[i]) for i in range(12, 17)} == set(range(12, 17))
    assert set(moved(permutation)) <= {*range(12, 17), *range(21, 24)}
    assert any(i > 16 for i in moved(permutation))


def test_control_of_nothing_moves_nothing():
    assert torch.equal(shuffle_elsewhere(TIMES, [50.0], [5.0], 1.0, seeded(0)), torch.arange(40))
