"""Answers about windows -> the captions of their videos."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from taro.prepare.caption.captioner import Answer, Captioner
from taro.prepare.caption.merging import arrange, check_events, merge_windows
from taro.prepare.caption.parsing import parse_events
from taro.prepare.caption.videos import CaptionedVideo, SourceVideo
from taro.prepare.caption.windows import ReadWindow, Window, WindowTask
from taro.prompts import format_seconds
from taro.video.load import Video

ANSWER_SHOWN = 120  # characters, in a reason


def caption_videos(windows: Iterable[ReadWindow], start: Callable[[], Captioner]) -> Iterator[CaptionedVideo]:
    """Videos as they are finished. A window that can't be read or answered fails its video, whose other windows are then
    left; one whose answer has no timed event does not, unless none has.

    Args:
        windows: of all videos.
        start: makes the captioner, once there is a window to be answered.
    """
    failed: list[CaptionedVideo] = []
    closed: set[str] = set()
    answers: dict[str, dict[Window, Answer]] = defaultdict(dict)

    def fail(video: SourceVideo, duration: float, reason: str) -> None:
        closed.add(video.id)
        failed.append(CaptionedVideo(video.id, duration, failure=reason))

    def readable() -> Iterator[tuple[WindowTask, Video]]:
        for read in windows:
            if read.video.id in closed:
                continue
            if read.failure is not None:
                fail(read.video, read.video.duration, read.failure)
            else:
                yield read.task, read.frames

    source = readable()
    first = next(source, None)
    for task, answer in start().answer(chain([first], source)) if first is not None else ():
        if task.video.id not in closed:
            if answer.failure is not None:
                fail(task.video, task.duration, f"{_name(task.window)}: {answer.failure}")
            else:
                own = answers[task.video.id]
                own[task.window] = answer
                if len(own) == task.count:
                    closed.add(task.video.id)
                    yield assemble(task.video, task.duration, answers.pop(task.video.id))
        while failed:
            yield failed.pop(0)
    yield from failed


def assemble(video: SourceVideo, duration: float, answers: Mapping[Window, Answer]) -> CaptionedVideo:
    """A video's captions from the answers about all of its windows."""
    parts, rejected, unread = [], Counter(), 0
    windows = sorted(answers, key=lambda window: window.start)
    for window in windows:
        parsed = parse_events(answers[window].text, answers[window].cut)
        events, faults = check_events(parsed.events, window.length)
        parts.append((window, events))
        rejected += faults
        unread += not parsed.readable
    captions, repeated = arrange(merge_windows(parts), duration)
    rejected += repeated
    failure = None
    if not captions and (unread or rejected):
        left_out = f" (left out: {dict(rejected)})" if rejected else ""
        first = " ".join(answers[windows[0]].text.split())[:ANSWER_SHOWN]
        failure = f"no answer has an event that can be used{left_out}; the first: {first!r}"
    return CaptionedVideo(
        id=video.id,
        duration=duration,
        captions=tuple(captions),
        failure=failure,
        windows=len(windows),
        unread=unread,
        cut=sum(answer.cut for answer in answers.values()),
        rejected=dict(rejected),
        answers=tuple(answers[window].text for window in windows),
    )


def _name(window: Window) -> str:
    return f"{format_seconds(window.start)}s to {format_seconds(window.end)}s"
