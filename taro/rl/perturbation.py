"""Perturbed videos: permutations of the frames around the boundaries of a truth.

Shapes: F frames, K boundaries. A permutation is applied as `perturbed[i] = frames[permutation[i]]`: only the pixels
move, a position keeps its timestamp. Timestamps, boundaries and radii are seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_DRAWS = 100


@dataclass(frozen=True)
class FrameShuffle:
    """Permutes the frames near each boundary among themselves (TaRO, arXiv 2606.09248).

    Called as `(timestamps (F,), boundaries (K,), generator) -> permutation (F,)`, int64. The window of a boundary holds
    the frames at most `radius` away, the ends included. Windows are shuffled one after the other, so frames can travel
    through the overlap of two. Windows with fewer than two frames are left alone. A draw that leaves a whole window in
    place is drawn again: the same video twice gives no signal. The same seed gives the same permutation. Raises
    ValueError for other shapes and `radius <= 0`.
    """

    radius: float = 3.0

    def __post_init__(self):
        if not self.radius > 0:
            raise ValueError(f"radius must be a number of seconds > 0, got {self.radius}")

    def __call__(self, timestamps: Tensor, boundaries: Tensor | Sequence[float], generator: torch.Generator) -> Tensor:
        return shuffle_within(self.windows(timestamps, boundaries), len(timestamps), generator)

    def windows(self, timestamps: Tensor, boundaries: Tensor | Sequence[float]) -> list[Tensor]:
        """For each boundary the indices of the frames at most `radius` away."""
        times = torch.as_tensor(timestamps, dtype=torch.float64)  # (F,)
        centres = torch.as_tensor(boundaries, dtype=torch.float64)  # (K,)
        if times.dim() != 1 or centres.dim() != 1:
            raise ValueError(
                "timestamps and boundaries must have the shapes (frames,) and (boundaries,), got "
                f"{tuple(times.shape)} and {tuple(centres.shape)}"
            )
        return [torch.nonzero((times - centre).abs() <= self.radius).flatten() for centre in centres]


def shuffle_within(windows: list[Tensor], frames: int, generator: torch.Generator) -> Tensor:
    """A permutation, (F,) int64, that shuffles the frames with these indices, window by window."""
    permutation = torch.arange(frames)  # (F,)
    for window in windows:
        if len(window) > 1:
            permutation[window] = _displace(permutation[window], window, generator)
    return permutation


def _displace(content: Tensor, window: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of `content` other than the frames of `window` in place (a second window may undo a first)."""
    for _ in range(_MAX_DRAWS):
        drawn = content[torch.randperm(len(content), generator=generator)]
        if not torch.equal(drawn, window):
            return drawn
    return content.sort().values.roll(1)
