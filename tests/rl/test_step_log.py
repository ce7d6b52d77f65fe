from dataclasses import replace
from itertools import count
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
    monkeypatch.setattr("taro.rl.step_log.memory_now", lambda device: {})
    log = StepLog(torch.device("cuda"))
    with log.timed("shuffled"):
        queue.queued += 1
    with log.timed("reference"):
        queue.queued += 2
    queue.queued += 4
    values = log.values()
    assert values["timing_s/shuffled"] == 1 and values["timing_s/reference"] == 2
    assert values["timing_s/step"] == pytest.approx(7)


def test_the_memory_of_a_part_is_not_that_of_what_was_before(monkeypatch):
    """The most of it, where there are several of a name; `memory/gpu_peak_gib` is of all of the run so far."""
    readings = iter([9.0, 2.0, 4.0, 3.0, 1.0])  # before a part and at its end, twice, and at the end of the step
    monkeypatch.setattr("taro.rl.step_log.read_clock", lambda device, seconds=count(): next(seconds))
    monkeypatch.setattr("taro.rl.step_log.memory_now", lambda device: {"cpu_gib": 0.5, "gpu_peak_gib": next(readings)})
    log = StepLog(torch.device("cuda"), gpu_peak_gib=8.0)
    for _ in range(2):
        with log.timed("update"):
            pass
    values = log.values()
    assert (values["memory/update/gpu_peak_gib"], values["memory/update/cpu_gib"]) == (3.0, 0.5)
    assert values["memory/gpu_peak_gib"] == 9.0 == log.gpu_peak_gib and values["memory/cpu_peak_gib"] > 0


def group_of(sample):
    """Two completions, the second of which starts with a constructed path."""
    example = SimpleNamespace(sample=sample, constructed=torch.tensor([False, True]))
    packed = type("Packed", (), {"response_mask": torch.ones(2, 3), "__len__": lambda self: 6})()
    rollout = SimpleNamespace(finished=(True, False))
    return SimpleNamespace(example=example, texts=("a", "b"), shuffled_texts=(), rollout=rollout, packed=packed)


def rewards_of(**by_name):
    by_name = {name: torch.tensor(values) for name, values in by_name.items()}
    weights, zeros = {name: -2.0 if name == "iou" else 1.0 for name in by_name}, torch.zeros(2)
    return GroupRewards((None, None), zeros + 0.5, None, by_name, weights, zeros)


SAMPLE = Sample("x", "v.mp4", "q", ((1.0, 3.0),), 10.0)


def test_a_record_has_its_rewards_before_their_weights_and_the_sum_after():
    log = StepLog(torch.device("cpu"))
    log.add_group(group_of(SAMPLE), rewards_of(format=[1.0, 0.0], iou=[0.0, 1.0]), torch.ones(2, 3))
    assert [record["reward"] for record in log.records] == [1.0, -2.0]
    assert [record["rewards"] for record in log.records] == [{"format": 1.0, "iou": 0.0}, {"format": 0.0, "iou": 1.0}]
    assert not any("task" in record for record in log.records) and not any("tasks/" in name for name in log.values())


def test_groups_that_made_room_for_others(monkeypatch):
    """What they said and earned is kept, and is no part of what is logged."""
    said = [SimpleNamespace(span=None, iou=0.0), SimpleNamespace(span=(1.0, 2.0), iou=0.5)]
    monkeypatch.setattr("taro.rl.step_log.read_completions", lambda group: said)
    log, group = StepLog(torch.device("cpu")), group_of(SAMPLE)
    group.earned = {"format": [1.0, 1.0]}, {"format": 2.0}
    log.add_replaced(group)
    about = {"id": "x", "query": "q", "spans": ((1.0, 3.0),), "reward": 2.0}
    assert log.replaced == [
        about | {"completion": "a", "answer": None, "iou": 0.0, "constructed": False, "finished": True},
        about | {"completion": "b", "answer": (1.0, 2.0), "iou": 0.5, "constructed": True, "finished": False},
    ]
    assert log.records == [] and log.tokens == 0


def test_rewards_by_task():
    log = StepLog(torch.device("cpu"), by_task=True)
    log.add_group(group_of(SAMPLE), rewards_of(format=[1.0, 0.0]), torch.ones(2, 3))
    other = rewards_of(format=[1.0, 1.0], answer=[0.0, 1.0])
    log.add_group(group_of(replace(SAMPLE, task="grounded_qa")), other, torch.ones(2, 3))
    values = log.values()
    assert values["rewards/format/mean"] == 0.75 and values["rewards/answer/mean"] == 0.5
    assert values["tasks/grounding/rewards/format/mean"] == 0.5 and values["tasks/grounded_qa/rewards/format/mean"] == 1.0
    assert values["tasks/grounded_qa/reward"] == 1.5 and values["tasks/grounding/IoU"] == 0.5
    assert values["tasks/grounding/prompts"] == 1 and values["tasks/grounding/frac_reward_zero_std"] == 0
    assert [record.get("task") for record in log.records] == [None, None, "grounded_qa", "grounded_qa"]
