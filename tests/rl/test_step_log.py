import pytest
import torch

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
