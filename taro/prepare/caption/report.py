"""What came of captioning, of each video and of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from taro.data.samples import Caption
from taro.messages import first_lines, print_table


@dataclass(frozen=True)
class CaptionedVideo:
    """What came of one video; a row of the file of videos that are done."""

    id: str
    duration: float  # seconds that captions may cover
    captions: tuple[Caption, ...] = ()  # in order of time, in seconds of the clip's own clock
    failure: str | None = None  # why there are none
    windows: int = 0  # that were asked about
    unread: int = 0  # of these, the ones whose answer has no timed event in it
    cut: int = 0  # of these, the ones whose answer was cut off at max_tokens
    rejected: dict[str, int] = field(default_factory=dict, hash=False)  # events that were left out, by reason
    answers: tuple[str, ...] = ()  # of each window, in order of time


@dataclass(frozen=True)
class CaptionReport:
    """Numbers of all videos that are done or failed, out of the `videos` that were asked for."""

    videos: int
    done: int
    failed: dict[str, str] = field(hash=False)  # reasons by video id
    open: int  # not asked about yet: other shards have them
    captions: int
    coverage: float  # share of the done videos' time that captions cover
    events_per_minute: float  # of the done videos
    windows: int
    unread_windows: int  # whose answer has no timed event in it
    cut_answers: int  # at max_tokens
    rejected: dict[str, int] = field(hash=False)  # events that were left out, by reason


def make_report(videos: Sequence[CaptionedVideo], asked: int) -> CaptionReport:
    """The report on these videos, out of so many that were asked for."""
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
    rejected = ", ".join(f"{number} {reason}" for reason, number in report.rejected.items())
    values = asdict(report) | {"failed": len(report.failed), "rejected": rejected or 0}
    shown = {name: f"{value:.3f}" if isinstance(value, float) else str(value) for name, value in values.items()}
    print_table(["captions", ""], [(name.replace("_", " "), value) for name, value in shown.items()])
    for line in first_lines([f"failed: {id}: {reason}" for id, reason in report.failed.items()]):
        print(line)
