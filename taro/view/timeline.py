"""One axis of seconds: the video's frames, the true spans, the spans that completions predict, the times that their reasoning
names, and how much each token depends on the order of the frames.

What is drawn is said here; `taro.view.html` draws it for a browser, `taro.view.figure` with matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from taro.errors import TaroError
from taro.prompts import answer_times, named_times
from taro.spans import Span

MARGIN = 1.05  # of the axis of a video of unknown length, beyond the last time on it


class ViewError(TaroError):
    """What was asked for can't be shown."""


@dataclass(frozen=True)
class NamedTime:
    """A time in a text: seconds, and its range of characters."""

    seconds: float
    start: int
    end: int


@dataclass(frozen=True)
class TokenGap:
    """How much less likely one token is on the video with shuffled frames, nats, and its range of characters."""

    gap: float
    start: int
    end: int


@dataclass(frozen=True)
class Track:
    """One completion.

    Attributes:
        label: what stands before its bar.
        span: that it predicts, seconds, as it was written; None where there is none.
        score: in [0, 1], the colour of its bar: an IoU, or a reward as a share of the largest.
        note: what stands behind its bar.
        text: the completion; None where there is none.
        gaps: of its tokens, where they were measured.
    """

    label: str
    span: Span | None
    score: float
    note: str = ""
    text: str | None = None
    gaps: tuple[TokenGap, ...] = ()

    @property
    def times(self) -> list[NamedTime]:
        return find_times(self.text)

    @property
    def links(self) -> list[NamedTime]:
        """Times in the text that lead to the video: those of the reasoning, and those of the answer."""
        return [] if self.text is None else [*self.times, *_read_times(self.text, answer_times(self.text))]

    @property
    def largest_gap(self) -> float:
        """Nats, of any token in either direction: the strongest colour of this text."""
        return max((abs(token.gap) for token in self.gaps), default=0.0)


@dataclass(frozen=True)
class Timeline:
    """All that stands on one axis.

    Attributes:
        duration: of the video, seconds; nan where it isn't known, then the axis ends a little after the last time on it.
        truths: the true spans, seconds; () where they aren't known.
        tracks: one for each completion, from top to bottom.
        strip: frames of the video side by side, evenly spaced over its length, as the bytes of a JPEG.
    """

    duration: float
    truths: tuple[Span, ...]
    tracks: tuple[Track, ...]
    strip: bytes | None = None

    @property
    def length(self) -> float:
        """Seconds of the axis."""
        return axis_length(self.duration, [*self.truths, *(track.span for track in self.tracks if track.span)])


def find_times(text: str | None) -> list[NamedTime]:
    """The times that the reasoning of a completion names."""
    return [] if text is None else _read_times(text, named_times(text))


def _read_times(text: str, places: Iterable[tuple[int, int]]) -> list[NamedTime]:
    return [NamedTime(float(text[start:end]), start, end) for start, end in places]


def axis_length(duration: float, spans: Iterable[Span]) -> float:
    """Seconds of an axis for a video of this duration, which may be nan, with these spans."""
    if math.isfinite(duration) and duration > 0:
        return duration
    last = max((end for span in spans for end in span), default=0.0)
    return MARGIN * last if last > 0 else 1.0


def token_gaps(
    characters: Sequence[tuple[int, int]], log_probs: Sequence[float], shuffled_log_probs: Sequence[float]
) -> tuple[TokenGap, ...]:
    """Of the tokens of one completion (C), those with characters and with finite log-probs on both videos."""
    rows = zip(characters, log_probs, shuffled_log_probs, strict=True)
    gaps = (TokenGap(float(true) - float(shuffled), *ends) for ends, true, shuffled in rows)
    return tuple(token for token in gaps if token.start < token.end and math.isfinite(token.gap))


def seconds_text(span: Span) -> str:
    """`3.2 to 10.0 s`."""
    return f"{span[0]:.1f} to {span[1]:.1f} s"


def ticks(length: float, most: int = 7) -> list[float]:
    """Round times from 0 on, at most so many, for an axis of so many seconds."""
    steps = (factor * 10.0**power for power in range(-2, 7) for factor in (1, 2, 5))
    step = next(step for step in steps if length / step < most)
    return [k * step for k in range(int(length / step + 1e-9) + 1)]


def to_json(timeline: Timeline) -> dict[str, Any]:
    """As the script of a page draws it."""
    return {
        "duration": timeline.length,
        "truths": [list(span) for span in timeline.truths],
        "tracks": [
            {
                "label": track.label,
                "span": track.span and list(track.span),
                "score": track.score,
                "note": track.note,
                "text": track.text,
                "times": [[time.seconds, time.start, time.end] for time in track.times],
                "links": [[time.seconds, time.start, time.end] for time in track.links],
                "gaps": [[round(token.gap, 4), token.start, token.end] for token in track.gaps],
            }
            for track in timeline.tracks
        ],
    }
