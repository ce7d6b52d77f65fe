import threading

import pytest
import torch

from taro.rl.balance import balance, unwrap, wrap

CPU = torch.device("cpu")


class Ranks:
    """Threads that talk as ranks do."""

    def __init__(self, count):
        self.barrier, self.here, self.said = threading.Barrier(count), threading.local(), [None] * count
        self.parcels = []  # that were exchanged

    def gather(self, value):
        self.said[self.here.rank] = value
        self.barrier.wait(10)
        said = list(self.said)
        self.barrier.wait(10)
        return said

    def exchange(self, parcels, device):
        self.parcels += parcels
        return [to_each[self.here.rank] for to_each in self.gather(parcels)]

    def run(self, work):
        """What `work(rank)` gives on each of them."""
        found = [None] * len(self.said)

        def one(rank):
            self.here.rank = rank
            found[rank] = work(rank)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(found))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return found


@pytest.fixture
def ranks(monkeypatch):
    def start(count):
        ranks = Ranks(count)
        monkeypatch.setattr("taro.rl.balance.gather", ranks.gather)
        monkeypatch.setattr("taro.rl.balance.exchange", ranks.exchange)
        monkeypatch.setattr("taro.rl.balance.global_rank", lambda: ranks.here.rank)
        return ranks

    return start


def test_each_rank_has_about_the_same_and_nothing_is_lost(ranks):
    costs = [[5.0, 4.0, 3.0], [], [1.0, 1.0]]
    names = [["a", "b", "c"], [], ["d", "e"]]  # `balance` doesn't look into groups
    found = ranks(3).run(lambda rank: balance(names[rank], costs[rank], 0.0, CPU))
    assert [one.groups for one in found] == [["c", "d"], ["a"], ["b", "e"]]
    mean = 14 / 3
    assert all((one.before, one.after) == pytest.approx((12 / mean - 1, 5 / mean - 1)) for one in found)


@pytest.mark.parametrize(("allowed", "costs"), [(0.5, [[3.0], [1.0]]), (float("inf"), [[9.0, 9.0], []]), (0.0, [[], []])])
def test_nothing_moves_where_ranks_are_even_enough(ranks, allowed, costs):
    together = ranks(2)
    found = together.run(lambda rank: balance(["group"] * len(costs[rank]), costs[rank], allowed, CPU))
    assert [len(one.groups) for one in found] == [len(own) for own in costs] and together.parcels == []
    assert all(one.before == one.after for one in found)


def test_a_group_arrives_whole(group):
    number, other = unwrap(wrap({7: group}), CPU).popitem()
    assert number == 7 and other.texts == group.texts and other.token_spans == group.token_spans
    assert other.example.sample == group.example.sample and other.rollout.finished == group.rollout.finished
    for found, expected in (
        (other.packed.input_ids, group.packed.input_ids),
        (other.packed.predictor_index, group.packed.predictor_index),
        (other.features.embeds, group.features.embeds),
        (other.example.prompt.video.frames, group.example.prompt.video.frames),
        (other.rollout.completions[1], group.rollout.completions[1]),
    ):
        assert torch.equal(found, expected)
