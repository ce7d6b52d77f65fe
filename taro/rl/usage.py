"""The time and the memory that a step takes."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import torch

GIB = 2**30
PAGES = Path("/proc/self/statm")  # Linux: the second number is the resident set
RESIDENT_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which the system counts


def read_clock(device: torch.device) -> float:
    """Seconds, once all that was queued on `device`, which works while the program goes on, is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def memory_now(device: torch.device) -> dict[str, float]:
    """GiB: `cpu_gib`, the process's resident set, where the system tells it; on a GPU `gpu_peak_gib` too, the most that PyTorch
    had allocated there since this was read last."""
    memory = {}
    if PAGES.exists():
        memory["cpu_gib"] = int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB
    if device.type == "cuda":
        memory["gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        torch.cuda.reset_peak_memory_stats(device)
    return memory


def cpu_peak_gib() -> float:
    """GiB, the most of the process's resident set since it started, without workers that load data."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RESIDENT_UNIT / GIB
