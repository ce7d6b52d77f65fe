"""Captions as a captioner makes them: about the right events, at about the right times, and not of all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from taro.data.samples import Caption

SHORTEST = 0.5  # seconds of a caption


@dataclass(frozen=True)
class CaptionNoise:
    """How a video's captions differ from what happens in it. The default is no difference.

    Args:
        start: a caption begins this many seconds after its event does, drawn evenly from (least, most); negative is before.
        end: the same for its end.
        missing: share of the events that are not described. One at least is.
    """

    start: tuple[float, float] = (0.0, 0.0)
    end: tuple[float, float] = (0.0, 0.0)
    missing: float = 0.0

    def __post_init__(self) -> None:
        pairs = {"start": self.start, "end": self.end}
        problems = [f"{name} is (least, most), got {pair}" for name, pair in pairs.items() if pair[0] > pair[1]]
        if not 0 <= self.missing < 1:
            problems.append(f"missing is a share from 0 to below 1, got {self.missing}")
        if problems:
            raise ValueError("; ".join(problems))


CAPTIONERS = {
    "exact": CaptionNoise(),
    "loose": CaptionNoise(start=(-2.0, 1.0), end=(-1.0, 2.0), missing=0.25),
    "looser": CaptionNoise(start=(-4.0, 2.0), end=(-2.0, 4.0), missing=0.4),
}


def describe(truth: Sequence[Caption], duration: float, noise: CaptionNoise, seed: int) -> tuple[Caption, ...]:
    """What a captioner makes of a video's events.

    Args:
        truth: a caption of each event, exact.
        duration: of the video, seconds.
        seed: of the video: its captions are the same whatever is asked about it.
    """
    rng = random.Random(f"captions {seed}")
    described = []
    for event in truth:
        middle = (event.start + event.end) / 2
        start = min(event.start + rng.uniform(*noise.start), middle - SHORTEST / 2)
        end = max(event.end + rng.uniform(*noise.end), middle + SHORTEST / 2)
        described.append((rng.random(), Caption(round(max(0.0, start), 2), round(min(duration, end), 2), event.text)))
    kept = [caption for draw, caption in described if draw >= noise.missing]
    return tuple(kept or [max(described, key=lambda pair: pair[0])[1]])
