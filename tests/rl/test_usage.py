import re
import time
from pathlib import Path

import pytest
import torch

from taro.rl.usage import GIB, cpu_peak_gib, memory_now, read_clock


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to compare with")
def test_the_resident_set_and_its_peak():
    """What the system counts for the process, in GiB."""
    held = torch.ones(25_000_000)  # 100 MB, written to
    peak, now = cpu_peak_gib(), memory_now(torch.device("cpu"))
    status = Path("/proc/self/status").read_text()
    most, resident = (int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) * 1024 / GIB for name in ("VmHWM", "VmRSS"))
    assert len(held) and now == {"cpu_gib": pytest.approx(resident, rel=0.05)}
    assert 0.95 * most < peak < 20 * most  # a large parent's peak may be inherited


def test_on_a_gpu_the_most_that_is_allocated_there_too(monkeypatch):
    gpu = torch.device("cuda", 1)
    most = {gpu: 3 * GIB}
    monkeypatch.setattr("torch.cuda.max_memory_allocated", most.get)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: most.update({device: GIB}))
    assert [memory_now(gpu)["gpu_peak_gib"] for _ in range(2)] == [3, 1]


def test_a_gpu_is_waited_for_before_the_clock_is_read(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", done.append)
    monkeypatch.setattr(time, "perf_counter", lambda: float(len(done)))
    assert read_clock(torch.device("cpu")) == 0.0
    assert read_clock(torch.device("cuda:1")) == 1.0 and done == [torch.device("cuda:1")]
