"""Events of windows -> the captions of a video: checked, merged where windows overlap, in order of time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from taro.data.samples import Caption
from taro.prepare.caption.videos import Window
from taro.prompts import find_tag
from taro.spans import Span, temporal_iou

EDGE_TOLERANCE = 1.0  # seconds by which an event may leave its window or video: it is cut at the edge
SAME_IOU = 0.5  # of two events, within what both windows show
SAME_WORDS = 0.5  # of all words of two texts, those that both have
DECIMALS = 2  # of times

_ARTICLES = frozenset(("a", "an", "the"))
_AROUND = " \t*_`\"'"


def check_events(events: Iterable[Caption], length: float) -> tuple[list[Caption], Counter[str]]:
    """Events that can be captions, cut to [0, length] seconds, their texts on one line; and how many can't, by reason."""
    kept: list[Caption] = []
    rejected: Counter[str] = Counter()
    for event in events:
        text = " ".join(event.text.split()).strip(_AROUND)
        fault = _fault(event, text, length)
        if fault is None:
            kept.append(Caption(max(event.start, 0.0), min(event.end, length), text))
        else:
            rejected[fault] += 1
    return kept, rejected


def _fault(event: Caption, text: str, length: float) -> str | None:
    if not any(character.isalnum() for character in text):
        return "no text"
    if find_tag(text):
        return "a think or answer tag in the text"  # it would end the reasoning that captions become
    if not (math.isfinite(event.start) and math.isfinite(event.end)):
        return "times that are no numbers"
    if event.start >= event.end:
        return "start not before end"
    within = event.start >= -EDGE_TOLERANCE and event.end <= length + EDGE_TOLERANCE
    return None if within and event.start < length and event.end > 0 else "outside of what is shown"


def merge_windows(parts: Iterable[tuple[Window, Sequence[Caption]]]) -> list[Caption]:
    """The events of all windows in the video's clock, each once.

    An event that two windows show is described by both, each as far as it shows it. Two events are taken for one if, within
    the part that both windows show, they agree in time (IoU at least `SAME_IOU`) and share words (`SAME_WORDS`), or overlap and
    have the same words. The one caption spans both, in the words of the window that saw more of it.

    Args:
        parts: windows, and their checked events in each window's own clock.
    """
    merged: list[Caption] = []
    covered = 0.0
    for window, events in sorted(parts, key=lambda part: part[0].start):
        shared = (window.start, covered)
        earlier, fresh = list(merged), []
        for event in events:
            event = Caption(event.start + window.start, event.end + window.start, event.text)
            twin = max(earlier, key=lambda other: _agreement(other, event, shared), default=None)
            if twin is not None and _agreement(twin, event, shared) > 0:
                earlier.remove(twin)
                merged.remove(twin)
                event = _join(twin, event)
            fresh.append(event)
        merged += fresh
        covered = max(covered, window.end)
    return merged


def arrange(captions: Iterable[Caption], duration: float) -> tuple[list[Caption], Counter[str]]:
    """Captions in order of time, times rounded and inside [0, duration]; and how many were left out, by reason: of captions
    with the same words at about the same time (IoU at least `SAME_IOU`) the first stays."""
    kept: list[Caption] = []
    rejected: Counter[str] = Counter()
    for caption in sorted(captions, key=lambda caption: (caption.start, caption.end, caption.text)):
        caption = Caption(round(caption.start, DECIMALS), min(round(caption.end, DECIMALS), duration), caption.text)
        if caption.start >= caption.end:
            rejected["start not before end"] += 1
        elif any(_words(caption) == _words(other) and _iou(caption, other) >= SAME_IOU for other in kept):
            rejected["duplicate"] += 1
        else:
            kept.append(caption)
    return kept, rejected


def _agreement(first: Caption, second: Caption, shared: Span) -> float:
    """IoU within the shared time of two events that are taken for one, else 0."""
    iou = temporal_iou(_cut(first, shared), _cut(second, shared))
    one, other = set(_words(first)), set(_words(second))
    alike = len(one & other) / len(one | other) if one | other else 0.0
    return iou if alike == 1 or (alike >= SAME_WORDS and iou >= SAME_IOU) else 0.0


def _join(first: Caption, second: Caption) -> Caption:
    longer = max(first, second, key=lambda caption: caption.end - caption.start)
    return Caption(min(first.start, second.start), max(first.end, second.end), longer.text)


def _cut(caption: Caption, span: Span) -> Span:
    return max(caption.start, span[0]), min(caption.end, span[1])


def _iou(first: Caption, second: Caption) -> float:
    return temporal_iou((first.start, first.end), (second.start, second.end))


def _words(caption: Caption) -> list[str]:
    return [word for word in re.findall(r"\w+", caption.text.casefold()) if word not in _ARTICLES]
