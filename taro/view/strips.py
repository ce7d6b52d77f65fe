"""Strips of frames for the samples that a page shows first, as long as there is room in the file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from taro.data.samples import Sample
from taro.messages import first_names
from taro.progress import track_items
from taro.view.frames import VideoError, load_strip
from taro.view.html import picture_address

MOST_BYTES = 4 * 2**20  # of all strips of a page


@dataclass(frozen=True)
class Strips:
    """Addresses of pictures, which of them a sample has, and why others have none."""

    pictures: list[str] = field(default_factory=list)
    of_sample: dict[str, int] = field(default_factory=dict)  # by id: its place in `pictures`
    missing: list[str] = field(default_factory=list)  # videos that are not there
    broken: list[str] = field(default_factory=list)  # that can't be read
    more: int = 0  # that were not looked at

    def remarks(self, where: str = "") -> list[str]:
        """What is missing, in words. `where`: what can be done where videos are not there."""
        kinds = ((f"that are not there{where}", self.missing), ("that can't be read", self.broken))
        lines = [f"no frames of videos {said}, {len(videos)} in all: {first_names(videos)}" for said, videos in kinds if videos]
        if self.more:
            lines.append(f"frames are shown of {len(self.pictures)} videos, not of {self.more} others; --strips N shows more")
        return lines


def make_strips(samples: Iterable[Sample], most: int) -> Strips:
    """Of the videos of these samples, at most so many; those that can't be read have none.

    Args:
        samples: the most important first.
        most: videos, or clips of them, that are read; 0: none, and nothing is said to be missing.
    """
    if most == 0:
        return Strips()
    videos: dict[tuple, list[Sample]] = {}
    missing, others = {}, set()
    for sample in samples:
        key = (sample.video, sample.clip)
        if key in videos:
            videos[key].append(sample)
        elif sample.video and len(videos) == most:
            others.add(key)
        elif sample.video and os.path.isfile(sample.video):
            videos[key] = [sample]
        elif sample.video:
            missing[sample.video] = None
    strips, total = Strips(missing=list(missing), more=len(others)), 0
    for (video, clip), own in track_items(iter(videos.items()), "frames", len(videos), lambda item: False):
        if total > MOST_BYTES:
            break
        try:
            address = picture_address(load_strip(video, clip))
        except VideoError:  # a page is worth as much without it
            strips.broken.append(video)
            continue
        total += len(address)
        strips.pictures.append(address)
        strips.of_sample.update({sample.id: len(strips.pictures) - 1 for sample in own})
    return strips
