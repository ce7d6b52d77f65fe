import os
from pathlib import Path

import pytest
import torch

from taro.rl.usage import GIB, peak_memory


def test_a_tensor_of_a_gigabyte_is_seen():
    """Written to, since memory that is only asked for is not resident."""
    before = peak_memory(torch.device("cpu"))["memory/cpu_peak_gib"]
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("no /proc to compare with")
    resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB
    assert resident * 0.9 < before < resident + 8  # of its kind, and a peak
    size = before - resident + 0.25
    held = torch.ones(int(size * GIB) // 4)
    after = peak_memory(torch.device("cpu"))["memory/cpu_peak_gib"]
    assert after == pytest.approx(before + 0.25, abs=0.1) and len(held) > 0


def test_on_a_gpu_what_is_allocated_there_too(monkeypatch):
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * GIB if device.index == 1 else 0)
    assert peak_memory(torch.device("cuda", 1))["memory/gpu_peak_gib"] == 3
