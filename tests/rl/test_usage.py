import re
import time
from pathlib import Path

import pytest
import torch

from taro.rl.usage import GIB, peak_memory, read_clock


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to compare with")
def test_the_peak_of_the_resident_set():
    """What the system counts for the process, in GiB."""
    held = torch.ones(25_000_000)  # 100 MB, written to
    peak = peak_memory(torch.device("cpu"))
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    expected = int(kibibytes) * 1024 / GIB
    assert len(held) and peak.keys() == {"memory/cpu_peak_gib"}
    assert 0.95 * expected < peak["memory/cpu_peak_gib"] < 20 * expected  # a large parent's peak may be inherited


def test_on_a_gpu_what_is_allocated_there_too(monkeypatch):
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * GIB if device.index == 1 else 0)
    assert peak_memory(torch.device("cuda", 1))["memory/gpu_peak_gib"] == 3


def test_a_gpu_is_waited_for_before_the_clock_is_read(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", done.append)
    monkeypatch.setattr(time, "perf_counter", lambda: float(len(done)))
    assert read_clock(torch.device("cpu")) == 0.0
    assert read_clock(torch.device("cuda:1")) == 1.0 and done == [torch.device("cuda:1")]
