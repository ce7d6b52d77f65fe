from types import SimpleNamespace

import pytest
import torch

from taro.data.samples import Sample
from taro.rl.group_rewards import GroupRewards
from taro.rl.step_log import StepLog


class Queue:
    """A device whose work of one second is done when it is waited for."""

    def __init__(self):
        self.now, self.queued = 0.0, 0

    def read(self, device):
        assert device.type == "cuda"
        self.now, self.queued = self.now + self.queued, 0
        return self.now


def test_the_time_of_a_part_is_that_of_its_own_work(monkeypatch):
    queue = Queue()
    monkeypatch.setattr("taro.rl.step_log.read_clock", queue.read)
    log = StepLog(torch.device("cuda"))
    with log.timed("shuffled"):
        queue.queued += 1
    with log.timed("reference"):
        queue.queued += 2
    queue.queued += 4
    values = log.values()
    assert values["timing_s/shuffled"] == 1 and values["timing_s/reference"] == 2
    assert values["timing_s/step"] == pytest.approx(7)


def test_a_record_has_its_rewards_before_their_weights_and_the_sum_after():
    sample = Sample("x", "v.mp4", "q", ((1.0, 3.0),), 10.0)
    example = SimpleNamespace(sample=sample, constructed=torch.tensor([False, True]))
    packed = type("Packed", (), {"response_mask": torch.ones(2, 3), "__len__": lambda self: 6})()
    group = SimpleNamespace(example=example, texts=("a", "b"), rollout=SimpleNamespace(finished=(True, False)), packed=packed)
    by_name = {"format": torch.tensor([1.0, 0.0]), "iou": torch.tensor([0.0, 1.0])}
    weights, zeros = {"format": 1.0, "iou": -2.0}, torch.zeros(2)
    log = StepLog(torch.device("cpu"))
    log.add_group(group, GroupRewards((None, None), zeros, None, by_name, weights, zeros), torch.ones(2, 3))
    assert [record["reward"] for record in log.records] == [1.0, -2.0]
    assert [record["rewards"] for record in log.records] == [{"format": 1.0, "iou": 0.0}, {"format": 0.0, "iou": 1.0}]
