"""A model's answer -> timed events. Tolerant of how they are laid out, strict about numbers.

An event is a line that starts with a time range (`From 1.5s to 4.0s, a man opens a door.`), or an entry of JSON. Times are
seconds, or clock times (`1:05`, `00:01:05.5`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from taro.data.samples import Caption
from taro.rows import is_number

# Names under which models and annotation files give the parts of an event.
_START_KEYS = ("start", "start_time", "start_sec", "begin", "from")
_END_KEYS = ("end", "end_time", "end_sec", "stop", "to")
_PAIR_KEYS = ("timestamp", "timestamps", "time", "times", "time_range", "span", "segment", "window")
_TEXT_KEYS = ("text", "caption", "description", "event", "sentence", "action")
_LONGEST = 20_000  # characters of an answer that are read
_JSON_DEPTH = 4  # an object, with a list, of events, with a pair of times

# Texts are matched with their white space collapsed: adjacent runs of it would cost quadratic time.
_CLOCK = r"(?:[0-9]+:)?[0-5]?[0-9]:[0-5][0-9](?:\.[0-9]+)?"
_SECONDS = r"[0-9]+(?:\.[0-9]+)?(?:\s?s(?:ec(?:ond)?s?)?)?"
_TIME = rf"(?:{_CLOCK}|{_SECONDS})(?![\w%])(?![.:][0-9])"
_DASH = r"\-\u2010-\u2015\u2212~"  # of a character class
# A comma joins two times only inside brackets: elsewhere it may belong to a number (1,000).
_JOINER = rf"(?:to|until|and|[{_DASH}]|(?(open),|(?!)))"
_NO_MORE = rf"(?!(?:[{_DASH}]|(?<=[0-9]),|\s?to\s?)[0-9])"
_RANGE = rf"(?P<start>{_TIME})\s?{_JOINER}\s?(?P<end>{_TIME}){_NO_MORE}"
_LINE = re.compile(
    r"(?:(?:[-\u2022+]|[0-9]+[.)])\s)?"  # of a list
    rf"[\"']?(?P<open>[\[(<])?\s?(?P<lead>(?:from|between)\s)?{_RANGE}(?(open)\s?[\])>])"
    rf"[\"']?\s?(?P<mark>[:,;|{_DASH}]|\.(?=\s|$))?(?P<text>.*)",
    re.IGNORECASE,
)
_ONE_RANGE = re.compile(rf"(?P<open>[\[(<])?(?:from\s)?{_RANGE}(?(open)[\])>])", re.IGNORECASE)
_ONE_TIME = re.compile(_TIME, re.IGNORECASE)
_BRACKET = re.compile(r"[\[{]")
_MARKDOWN = str.maketrans("", "", "*`")
_NOTHING = re.compile(r"\W*(?:there are )?no (?:timed |visible )?events?\W*", re.IGNORECASE)


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer's events as they are written, in the answer's own clock: what they say is not checked here."""

    events: tuple[Caption, ...]
    readable: bool
    """There are events, or the answer says that there are none."""


def parse_events(text: str, cut: bool = False) -> ParsedAnswer:
    """The timed events of an answer; left out are reasoning up to a `</think>` and, of an answer that was cut off, the event
    that it breaks off in."""
    answer = text.rpartition("</think>")[2][:_LONGEST]
    values = list(_json_values(answer))
    events = [event for value in values for event in _walk(value)]
    if not events:
        lines = answer.splitlines()
        events = list(_line_events(lines[:-1] if cut else lines))
    return ParsedAnswer(tuple(events), bool(events) or [] in values or _NOTHING.fullmatch(answer.strip()) is not None)


def json_event(value: Any) -> Caption | None:
    """One event: {"start", "end", "text"} under the usual names, [start, end, text] or [[start, end], text]; else None."""
    if isinstance(value, dict):
        times = _pair(_first(value, _PAIR_KEYS)) or _pair([_first(value, _START_KEYS), _first(value, _END_KEYS)])
        text = _first(value, _TEXT_KEYS)
    elif isinstance(value, list) and len(value) in (2, 3):
        times, text = _pair(value[:2] if len(value) == 3 else value[0]), value[-1]
    else:
        return None
    return Caption(*times, text) if times is not None and isinstance(text, str) else None


# ---- JSON ----


def _json_values(text: str) -> Iterator[Any]:
    """Lists and objects in a text, from left to right; of one that is cut off, the whole ones in it."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    position = 0
    while found := _BRACKET.search(text, position):
        try:
            value, position = decoder.raw_decode(text, found.start())
        except RecursionError:  # no answer, and each place in it would take as long
            return
        except ValueError:
            position = found.start() + 1
        else:
            yield value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _walk(value: Any, depth: int = 0) -> Iterator[Caption]:
    event = json_event(value)
    if event is not None:
        yield event
    elif isinstance(value, dict | list) and depth < _JSON_DEPTH:
        for child in value.values() if isinstance(value, dict) else value:
            yield from _walk(child, depth + 1)


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if name in value), None)


def _pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, str):
        found = _ONE_RANGE.fullmatch(" ".join(value.split()))
        value = [found["start"], found["end"]] if found else None
    if not isinstance(value, list) or len(value) != 2:
        return None
    start, end = (_number(time) for time in value)
    return None if start is None or end is None else (start, end)


def _number(value: Any) -> float | None:
    """Seconds of a number or of a text that is one time."""
    if isinstance(value, str):
        return _seconds(value) if _ONE_TIME.fullmatch(" ".join(value.split())) else None
    return float(value) if is_number(value) else None


# ---- Lines ----


def _line_events(lines: Iterable[str]) -> Iterator[Caption]:
    """Lines that start with a time range; what a line with nothing more than that describes follows on the next."""
    pending: tuple[float, float] | None = None
    for line in lines:
        line = " ".join(line.translate(_MARKDOWN).split())
        found = _LINE.fullmatch(line)
        times = _times(found) if found else None
        if times is None:
            if pending and line:
                yield Caption(*pending, line)
                pending = None
        elif any(character.isalnum() for character in found["text"]):
            yield Caption(*times, found["text"])
            pending = None
        else:
            pending = times


def _times(found: re.Match[str]) -> tuple[float, float] | None:
    """Start and end, where it is clear that they are times: `2 to 3 people` are none."""
    start, end = found["start"], found["end"]
    marked = found["lead"] or found["open"] or found["mark"] or any(not _is_bare(time) for time in (start, end))
    return (_seconds(start), _seconds(end)) if marked else None


def _is_bare(time: str) -> bool:
    return ":" not in time and time[-1].isdigit()


def _seconds(time: str) -> float:
    """`1:05` -> 65.0, `4.5 sec` -> 4.5."""
    parts = re.findall(r"[0-9.]+", time)
    return sum(float(part) * 60**place for place, part in enumerate(reversed(parts)))
