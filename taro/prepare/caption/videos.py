"""The distinct videos of a samples file, and what captioning makes of each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from taro.data.samples import Caption, Sample
from taro.errors import TaroError


class CaptionError(TaroError):
    """Captions can't be made as asked; nothing that was done before is lost."""


@dataclass(frozen=True)
class SourceVideo:
    """One video, or one clip of it, whatever the number of samples about it.

    Attributes:
        id: path below the root of the videos, and `@start-end` for a clip.
        path: of the file.
        clip: (start, end) in seconds of the file's clock; None for all of it.
        duration: seconds, the shortest that one of its samples states.
        names: what captions may be filed under: the id first, then less exact ones that may stand for several videos.
    """

    id: str
    path: str
    clip: tuple[float, float] | None
    duration: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaptionedVideo:
    """What came of one video.

    Attributes:
        id: of the `SourceVideo`.
        duration: seconds that captions may cover.
        captions: in order of time, in seconds of the clip's own clock.
        failure: why there are none.
        windows: windows that were asked about.
        unread: of these, the ones whose answer has no timed event in it.
        cut: of these, the ones whose answer was cut off at max_tokens.
        rejected: events that were left out, by reason.
        answers: what the model said of each window, in order of time.
    """

    id: str
    duration: float
    captions: tuple[Caption, ...] = ()
    failure: str | None = None
    windows: int = 0
    unread: int = 0
    cut: int = 0
    rejected: dict[str, int] = field(default_factory=dict, hash=False)
    answers: tuple[str, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """The video as JSON's types."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> CaptionedVideo:
        """The video of a row that `to_row` made."""
        captions = tuple(Caption(**caption) for caption in row["captions"])
        return cls(**row | {"captions": captions, "answers": tuple(row["answers"])})


def video_id(sample: Sample, root: str | os.PathLike[str]) -> str:
    """The id of the sample's video: the same wherever the videos are, as long as they lie alike below `root`."""
    path = Path(os.path.relpath(sample.video, root)).as_posix()
    return path if sample.clip is None else f"{path}@{sample.clip[0]:g}-{sample.clip[1]:g}"


def source_videos(samples: Iterable[Sample], root: str | os.PathLike[str]) -> list[SourceVideo]:
    """Each distinct video once, in the order in which the samples name them first."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(video_id(sample, root), []).append(sample)
    return [
        SourceVideo(
            id=id,
            path=group[0].video,
            clip=group[0].clip,
            duration=min(sample.duration for sample in group),
            names=_names(id, group, root),
        )
        for id, group in groups.items()
    ]


def _names(id: str, group: list[Sample], root: str | os.PathLike[str]) -> tuple[str, ...]:
    path = Path(os.path.relpath(group[0].video, root))
    stated = [sample.extra["vid"] for sample in group if isinstance(sample.extra.get("vid"), str)]
    names = [id, path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem, *stated]
    return tuple(dict.fromkeys(names))
