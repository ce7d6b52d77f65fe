"""Seeds that follow from what they are for, not from what was drawn before."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def stable_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from the parts' text: the same in every process and on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set the random states of Python, NumPy and PyTorch from the step, so that a run that was resumed draws what it would
    have drawn."""
    value = stable_seed("step", seed, step, rank)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)
