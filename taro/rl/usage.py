"""The time and the memory that a step takes."""

from __future__ import annotations

import resource
import sys
import time

import torch

GIB = 2**30
RESIDENT_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which the system counts


def read_clock(device: torch.device) -> float:
    """Seconds, once all that was queued on `device`, which works while the program goes on, is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> dict[str, float]:
    """GiB, the most since the process started: `memory/cpu_peak_gib`, its resident set, without workers that load data; on a
    GPU `memory/gpu_peak_gib` too, what PyTorch had allocated there, without CUDA's own memory and an engine's pool."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RESIDENT_UNIT
    peaks = {"memory/cpu_peak_gib": resident / GIB}
    if device.type == "cuda":
        peaks["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    return peaks
