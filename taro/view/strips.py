"""Strips of frames for the samples that a page shows first, as long as there is room in the file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from taro.data.samples import Sample
from taro.progress import track_items
from taro.view.frames import VideoError, load_strip
from taro.view.html import picture_address

MOST_BYTES = 4 * 2**20  # of all strips of a page


@dataclass(frozen=True)
class Strips:
    """Addresses of pictures, and which a sample has."""

    pictures: list[str] = field(default_factory=list)
    of_sample: dict[str, int] = field(default_factory=dict)  # by id: its place in `pictures`


def make_strips(samples: Iterable[Sample], most: int) -> Strips:
    """Of the videos of these samples, at most so many; those that can't be read have none.

    Args:
        samples: the most important first.
        most: videos, or clips of them, that are read.
    """
    videos: dict[tuple, list[Sample]] = {}
    for sample in samples:
        key = (sample.video, sample.clip)
        if key in videos or (len(videos) < most and sample.video and os.path.isfile(sample.video)):
            videos.setdefault(key, []).append(sample)
    strips, total = Strips(), 0
    for (video, clip), own in track_items(iter(videos.items()), "frames", len(videos), lambda item: False):
        if total > MOST_BYTES:
            break
        try:
            address = picture_address(load_strip(video, clip))
        except VideoError:  # a page is worth as much without it; what failed in the evaluation is in its failures
            continue
        total += len(address)
        strips.pictures.append(address)
        strips.of_sample.update({sample.id: len(strips.pictures) - 1 for sample in own})
    return strips
