import time

import torch

from taro.rl.timing import read_clock


def test_a_gpu_is_waited_for_before_the_clock_is_read(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", done.append)
    monkeypatch.setattr(time, "perf_counter", lambda: float(len(done)))
    assert read_clock(torch.device("cpu")) == 0.0
    assert read_clock(torch.device("cuda:1")) == 1.0 and done == [torch.device("cuda:1")]
