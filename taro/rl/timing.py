"""Time on a device that works while the program goes on."""

from __future__ import annotations

import time

import torch


def read_clock(device: torch.device) -> float:
    """Seconds, once all that was queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
