"""Requests about windows -> a model's answers -> the captions of their videos."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from taro.models.prompt import PromptBuilder
from taro.prepare.caption.merging import arrange, check_events, merge_windows
from taro.prepare.caption.parsing import parse_events
from taro.prepare.caption.report import CaptionedVideo
from taro.prepare.caption.settings import CaptionSettings
from taro.prepare.caption.videos import SourceVideo, Window, WindowRequest
from taro.rollout import RolloutPrompt, SamplingSettings
from taro.rollout.start import start_engine

ANSWER_SHOWN = 120  # characters, in a reason


@dataclass(frozen=True)
class Answer:
    """What was answered about a window, or why nothing was."""

    text: str = ""
    cut: bool = False  # at max_tokens: it would have gone on
    failure: str | None = None


Answers = Iterator[tuple[WindowRequest, Answer]]  # as they come


def ask_engine(settings: CaptionSettings, builder: PromptBuilder, requests: Iterable[WindowRequest]) -> Answers:
    """Greedy answers of an engine, which is loaded first, to prompts of `builder`.

    Raises:
        EngineError: vLLM can't run the model, or the engine failed.
    """
    engine = start_engine(
        settings.engine,
        builder,
        max_tokens=settings.max_tokens,
        device=settings.device,
        dtype=settings.dtype,
        vllm=settings.vllm,
    )
    sampling = SamplingSettings(0.0, settings.max_tokens, settings.repetition_penalty)
    asked: dict[int, WindowRequest] = {}

    def prompts() -> Iterator[RolloutPrompt]:
        for number, request in enumerate(requests):
            asked[number] = request
            yield RolloutPrompt(request.content, ((),), (0,))

    for number, group in engine.stream(prompts(), sampling, settings.batch_size):
        yield asked.pop(number), Answer(builder.decode(group.completions[0]), cut=not group.finished[0])


def caption_videos(
    requests: Iterable[WindowRequest], ask: Callable[[Iterable[WindowRequest]], Answers]
) -> Iterator[CaptionedVideo]:
    """Videos as they are finished. A window that can't be read or answered fails its video, whose other windows are then
    left; one whose answer has no timed event does not, unless none has.

    Args:
        requests: about the windows of all videos.
        ask: called once there is a window that can be read.
    """
    failed: list[CaptionedVideo] = []
    closed: set[str] = set()
    answers: dict[str, dict[Window, Answer]] = defaultdict(dict)

    def fail(request: WindowRequest, reason: str) -> None:
        closed.add(request.video.id)
        failed.append(CaptionedVideo(request.video.id, request.duration, failure=reason))

    def readable() -> Iterator[WindowRequest]:
        for request in requests:
            if request.video.id in closed:
                continue
            if request.failure is not None:
                fail(request, request.failure)
            else:
                yield request

    source = readable()
    first = next(source, None)
    for request, answer in ask(chain([first], source)) if first is not None else ():
        id, own = request.video.id, answers[request.video.id]
        if id not in closed:
            own[request.window] = answer
            if answer.failure is not None:
                fail(request, f"{request.window}: {answer.failure}")
            elif len(own) == request.count:
                yield assemble(request.video, request.duration, answers.pop(id))
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
