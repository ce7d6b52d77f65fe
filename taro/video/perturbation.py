"""Perturbed videos: permutations of the frames around the boundaries of a truth, or inside it.

Shapes: F frames, K boundaries. A permutation is applied as `perturbed[i] = frames[permutation[i]]`: only the pixels
move, a position keeps its timestamp. Timestamps, boundaries and radii are seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shuffle = Callable[[Tensor, Tensor | Sequence[float], torch.Generator], Tensor]
"""(timestamps (F,), boundaries (K,), generator) -> permutation (F,)."""

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


@dataclass(frozen=True)
class SpanShuffle:
    """Permutes the frames inside each span among themselves: what happens in an event can be seen as before, in which order
    can't.

    Called as `FrameShuffle` is, with the starts and ends of the spans in turn, (2 * spans,). A span holds the frames from its
    start to its end, the ends included.
    """

    def __call__(self, timestamps: Tensor, boundaries: Tensor | Sequence[float], generator: torch.Generator) -> Tensor:
        times = torch.as_tensor(timestamps, dtype=torch.float64)  # (F,)
        spans = torch.as_tensor(boundaries, dtype=torch.float64).view(-1, 2)
        windows = [torch.nonzero((times >= start) & (times <= end)).flatten() for start, end in spans.tolist()]
        return shuffle_within(windows, len(times), generator)



def shuffle_within(windows: list[Tensor], frames: int, generator: torch.Generator) -> Tensor:
    """A permutation, (F,) int64, that shuffles the frames with these indices, window by window."""
    permutation = torch.arange(frames)  # (F,)
    for window in windows:
        if len(window) > 1:
            permutation[window] = _displace(permutation[window], window, generator)
    return permutation


def shuffle_elsewhere(
    timestamps: Tensor,
    boundaries: Tensor | Sequence[float],
    avoid: Tensor | Sequence[float],
    radius: float,
    generator: torch.Generator,
) -> Tensor | None:
    """A control for `FrameShuffle`: as many frames move, in windows of the same sizes, at places that don't matter.

    The windows of `boundaries` are moved to random places where every frame is farther than `radius` from every
    boundary in `avoid`; windows that overlap move together, others stay disjoint. timestamps (F,), in ascending order,
    -> permutation (F,), int64, or None if no such place was found (with one truth, so at most two separate windows:
    if there is none). Raises ValueError for timestamps out of order and `radius <= 0`.
    """
    shuffle = FrameShuffle(radius)
    times = torch.as_tensor(timestamps, dtype=torch.float64)  # (F,)
    if (times.diff() < 0).any():
        raise ValueError("timestamps must be in ascending order")
    free = torch.ones(len(times), dtype=torch.bool)  # (F,)
    for window in shuffle.windows(times, avoid):
        free[window] = False
    clusters = _overlapping(shuffle.windows(times, boundaries))
    lengths = [max(int(window[-1]) for window in cluster) - int(cluster[0][0]) + 1 for cluster in clusters]
    # A random place for the first run may leave none for the next; leftmost places leave the most.
    starts = _place(lengths, free, generator) or _place(lengths, free)
    if starts is None:
        return None
    moved = [
        window - cluster[0][0] + start for cluster, start in zip(clusters, starts, strict=True) for window in cluster
    ]
    return shuffle_within(moved, len(times), generator)


def _overlapping(windows: list[Tensor]) -> list[list[Tensor]]:
    """The windows that move frames, grouped by overlap, each group in the order of its first frames."""
    clusters: list[list[Tensor]] = []
    end = -1
    for window in sorted((window for window in windows if len(window) > 1), key=lambda window: int(window[0])):
        if int(window[0]) > end:
            clusters.append([])
        clusters[-1].append(window)
        end = max(end, int(window[-1]))
    return clusters


def _place(lengths: list[int], free: Tensor, generator: torch.Generator | None = None) -> list[int] | None:
    """First frames of disjoint free runs of these lengths, the longest placed first: at random, or leftmost without a
    generator."""
    free = free.clone()
    starts = [0] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        candidates = torch.nonzero(free.unfold(0, length, 1).all(dim=1)).flatten()
        if not len(candidates):
            return None
        choice = torch.randint(len(candidates), (), generator=generator) if generator is not None else 0
        starts[index] = int(candidates[choice])
        free[starts[index] : starts[index] + length] = False
    return starts


def _displace(content: Tensor, window: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of `content` other than the frames of `window` in place (a second window may undo a first)."""
    for _ in range(_MAX_DRAWS):
        drawn = content[torch.randperm(len(content), generator=generator)]
        if not torch.equal(drawn, window):
            return drawn
    return content.sort().values.roll(1)
