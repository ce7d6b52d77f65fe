"""What came of captioning, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from taro.data.samples import Caption
from taro.prepare.caption.videos import CaptionedVideo

FAILURES_SHOWN = 20


@dataclass(frozen=True)
class CaptionReport:
    """Numbers of all videos that are done or failed.

    Attributes:
        videos: asked for.
        done: with captions.
        failed: reasons by video id.
        open: not asked about yet; other shards have them.
        captions: of all videos.
        coverage: share of the done videos' time that captions cover.
        events_per_minute: of the done videos.
        windows: that were asked about.
        unread_windows: of these, the ones whose answer has no timed event in it.
        cut_answers: answers that were cut off at max_tokens.
        rejected: events that were left out, by reason.
    """

    videos: int
    done: int
    failed: dict[str, str] = field(hash=False)
    open: int
    captions: int
    coverage: float
    events_per_minute: float
    windows: int
    unread_windows: int
    cut_answers: int
    rejected: dict[str, int] = field(hash=False)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_report(videos: Iterable[CaptionedVideo], asked: int) -> CaptionReport:
    """The report on these videos, out of so many that were asked for."""
    videos = list(videos)
    done = [video for video in videos if video.failure is None]
    seconds = sum(video.duration for video in done)
    captions = sum(len(video.captions) for video in done)
    return CaptionReport(
        videos=asked,
        done=len(done),
        failed={video.id: video.failure for video in videos if video.failure is not None},
        open=asked - len(videos),
        captions=captions,
        coverage=sum(covered_seconds(video.captions) for video in done) / seconds if done else 0.0,
        events_per_minute=60 * captions / seconds if done else 0.0,
        windows=sum(video.windows for video in videos),
        unread_windows=sum(video.unread for video in videos),
        cut_answers=sum(video.cut for video in videos),
        rejected=dict(sum((Counter(video.rejected) for video in videos), Counter()).most_common()),
    )


def covered_seconds(captions: Sequence[Caption]) -> float:
    """Length of the union of the captions' spans."""
    total, end = 0.0, 0.0
    for caption in sorted(captions, key=lambda caption: caption.start):
        total += max(0.0, caption.end - max(caption.start, end))
        end = max(end, caption.end)
    return total


def print_report(report: CaptionReport) -> None:
    """The numbers as a table, and what failed, with its reason."""
    console, table = Console(), Table("captions", "")
    for name, value in report.to_json().items():
        if isinstance(value, dict):
            value = len(value) if name == "failed" else ", ".join(f"{n} {reason}" for reason, n in value.items()) or 0
        table.add_row(name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
    console.print(table)
    lines = [f"failed: {id}: {reason}" for id, reason in report.failed.items()]
    more = [f"... and {len(lines) - FAILURES_SHOWN} more"] if len(lines) > FAILURES_SHOWN else []
    for line in lines[:FAILURES_SHOWN] + more:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
