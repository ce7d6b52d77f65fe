"""The text that goes to the model and the text that comes back: request, reasoning paths, answer parser.

Train, evaluation and demo share these functions. All times are seconds in the clip's own clock; a range of characters
is `(start, end)` with the end exclusive.
"""

import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from taro.spans import Span, temporal_iou

DEFAULT_PROMPT = """\
Watch the video and find when this event takes place: {query}.

Reason first, inside <think> and </think>: go through the video in order, write what you see together with its time \
range in seconds, and compare it with the event. Then write the start and the end of the event, in seconds with two \
decimals, inside <answer> and </answer>.

Example, for the event "a woman waters the plants":
<think>
I need to find the specific moment a woman waters the plants.
From 0.0s to 3.5s, a woman fills a green can at the sink.
From 3.5s to 8.4s, she carries the can to the balcony; no water falls yet.
From 8.5s to 12.4s, she tilts the can over three flower pots and water runs out.
From 12.4s to 15.0s, she puts the can down and goes inside.
The watering begins at 8.5s, when she tilts the can, and ends at 12.4s, when she puts it down.
</think>
<answer>8.50s to 12.40s</answer>"""

OPENING = "I need to find the specific moment {query}."
"""First line of a constructed path."""

_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_FORMAT_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORMAT = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
_THINK_OPEN = re.compile(r"<think>", re.IGNORECASE)
_THINK_CLOSE = re.compile(r"</think>", re.IGNORECASE)

# One number with its unit and, in running text, the word that opens a range. Parts of clock times (12:30), exponents
# (1e5), versions (1.2.3), digit groups (1,000), percentages and words (x2) are not numbers.
_NUMBER = re.compile(
    r"(?:\b(?P<lead>from|between)\s+)?"
    r"(?<![\w.:])(?<![0-9],)(?P<value>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?:\s*(?P<unit>s(?:ec(?:ond)?s?)?))?(?![\w:%])(?![.,][0-9])",
    re.IGNORECASE,
)
_DASHES = "-\u2010-\u2015\u2212"  # a character class: hyphen-minus, hyphens and dashes of Unicode, minus sign
_JOINER = re.compile(rf"\s*(?:to|and|[{_DASHES}])\s*", re.IGNORECASE)
_SIGNS = ("-", "\u2212")
_CHOICE = re.compile(r"(?<![\w'’])([A-HJ-Z]|I(?!\s+[a-z]))(?![\w'’])")  # a letter that stands alone; `I think` is none
_NONE = re.compile(
    r"\s*(?:none|nil|null|\[\s*\]|"
    r"(?:no such event|(?:(?:the|this) event |it )?(?:does not|doesn['’]t|did not) (?:occur|happen))"
    r"(?: in the video)?)\s*[.!]?\s*",
    re.IGNORECASE,
)


class TimedText(Protocol):
    """A dense caption: what happens (`text`) between `start` and `end`, in seconds."""

    start: float
    end: float
    text: str


def format_seconds(seconds: float) -> str:
    """`3.25 -> "3.2"`: the one way in which times are written (no unit, no negative zero)."""
    return f"{round(seconds, 1) + 0.0:.1f}"


def build_request(query: str, template: str = DEFAULT_PROMPT, instruction: str = "") -> str:
    """The request that follows the video: `template` with `{query}` filled in, and below it the `instruction` of a task.

    The template supplies the punctuation, so spaces around the query and periods at its end are dropped. Other braces
    in the template stay as they are. Raises ValueError when the template lacks `{query}`.
    """
    if "{query}" not in template:
        raise ValueError(f"the prompt template must contain the placeholder {{query}}, got {template!r}")
    request = template.replace("{query}", _bare(query))
    return f"{request}\n\n{instruction}" if instruction else request


def constructed_path(query: str, captions: Sequence[TimedText], rng: random.Random, opening: str = OPENING) -> str:
    """The opening of a constructed completion (TaRO, arXiv 2606.09248): a random part of the captions, `<think>` open.

    k ~ U{1..n} of the n captions are drawn without replacement and put in chronological order, one line each, below
    `opening` with `{query}` filled in. The text ends with the last caption, without a newline: the policy goes on from
    there. Raises ValueError without captions.
    """
    drawn = rng.sample(list(captions), rng.randint(1, len(captions))) if captions else []
    return _opening(query, drawn, opening)


def full_path(query: str, captions: Sequence[TimedText], answer: str, opening: str = OPENING) -> str:
    """A whole completion, as a supervised target: all captions in `<think>` below `opening`, then the text in `<answer>`.

    Raises ValueError without captions.
    """
    return f"{_opening(query, captions, opening)}\n</think>\n<answer>{answer}</answer>"


def format_spans(spans: Sequence[Span]) -> str:
    """The spans (seconds) as `parse_spans` reads them in an answer: `8.5s to 12.4s, 20.0s to 23.5s`, or `none`."""
    return ", ".join(f"{format_seconds(start)}s to {format_seconds(end)}s" for start, end in spans) or "none"


def parse_answer(text: str) -> Span | None:
    """Start and end in seconds from the last closed `<answer>` block of a completion, or None.

    Taken are the last two numbers of the block that are joined by `to`, `and` or a dash, with or without a unit (s,
    sec, seconds), in upper or lower case, as they are written: a reversed span comes back reversed. Nothing outside
    the block is read. Numbers with a sign, exponents, clock times (12:30) and digit groups (1,000) are not times, and
    two numbers with anything else between them are not a span.
    """
    block = _last_answer(text)
    if block is None:
        return None
    span = None
    for first, second in _number_pairs(text, *block):
        span = (float(first["value"]), float(second["value"]))
    return span if span is not None and all(map(math.isfinite, span)) else None


def parse_spans(text: str) -> list[Span] | None:
    """All spans in the last closed `<answer>` block of a completion, in its order, each as `parse_answer` reads one.

    An answer that the event doesn't occur (`none`, `no such event`, `does not occur`) is the empty list; one without a span,
    as without an answer, is None: it can't be read, which is no refusal.
    """
    answer = answer_text(text)
    if answer is None:
        return None
    return [] if _NONE.fullmatch(answer) else spans_in(answer) or None


def spans_in(text: str) -> list[Span]:
    """All pairs of joined numbers in a text, in its order. No number is in two of them: `1 to 2 and 3 to 4` are two."""
    spans, end = [], 0
    for first, second in _number_pairs(text, 0, len(text)):
        span = (float(first["value"]), float(second["value"]))
        if first.start() >= end and all(map(math.isfinite, span)):
            spans.append(span)
            end = second.end()
    return spans


def numbers_in(text: str) -> list[float]:
    """All numbers that could be times, in the order of the text (`7 s`, `From 3.5 to 4`)."""
    return [float(number["value"]) for number in _NUMBER.finditer(text)]


def answer_text(text: str) -> str | None:
    """What stands in the last closed `<answer>` block of a completion, or None."""
    block = _last_answer(text)
    return block and text[slice(*block)]


def choice(text: str) -> str | None:
    """The first capital letter that stands alone (`B`, `(B)`, `B. a dog`), or None."""
    found = _CHOICE.search(text)
    return found and found[1]


def find_tag(text: str) -> str | None:
    """The first think or answer tag in a text, opening or closing; None where there is none.

    Queries and captions must have none: they become a part of completions, and a tag would be read as the model's.
    """
    tag = _ANY_TAG.search(text)
    return tag and tag[0]


def policy_part(text: str, start: int) -> str:
    """What the policy wrote of a completion, to be read like a whole one: the text from the character `start` on, and before
    it the open `<think>` of the constructed path where `start` is not 0."""
    return f"<think>{text[start:]}" if start else text


def has_format(text: str) -> bool:
    """Whether a completion is one think block and then one answer block, with only white space around them.

    Each of the four tags must occur exactly once, in lower case.
    """
    return all(text.count(tag) == 1 for tag in _FORMAT_TAGS) and _FORMAT.fullmatch(text) is not None


def think_span(text: str) -> tuple[int, int]:
    """Character range of the reasoning: what stands between the first `<think>` and the next `</think>`.

    A block that is still open reaches to the end of the text, or to the `<answer>` that follows it: an answer is not
    reasoning. Without `<think>` the range is empty: (0, 0).
    """
    opening = _THINK_OPEN.search(text)
    if opening is None:
        return 0, 0
    closing = _THINK_CLOSE.search(text, opening.end()) or _ANSWER_TAG.search(text, opening.end())
    return opening.end(), closing.start() if closing else len(text)


def reasoning_has_timestamp(text: str) -> bool:
    """Whether the reasoning of a completion names a time: a number with a unit (`3.5s`, `12 seconds`) or a time range
    without one (`From 3.5 to 4`)."""
    has_unit = any(number["unit"] for number in _NUMBER.finditer(text, *think_span(text)))
    return has_unit or bool(timestamp_spans(text))


def named_times(text: str) -> list[tuple[int, int]]:
    """Character ranges of the numbers of the reasoning that are times, in order: those with a unit, and those of time
    ranges. Units are left out."""
    with_unit = (number.span("value") for number in _NUMBER.finditer(text, *think_span(text)) if number["unit"])
    return sorted({*with_unit, *timestamp_spans(text)})


def answer_times(text: str) -> list[tuple[int, int]]:
    """Character ranges of the numbers of the spans in the last closed `<answer>` block, in order. Units are left out."""
    block = _last_answer(text)
    pairs = _number_pairs(text, *block) if block else ()
    return sorted({number.span("value") for pair in pairs for number in pair})


def shift_times(text: str, seconds: float) -> str:
    """A completion with the times of its reasoning and its answer so many seconds later, each with the decimals it had."""
    moved, end = [], 0
    for start, stop in sorted({*named_times(text), *answer_times(text)}):
        value = text[start:stop]
        moved += text[end:start], f"{float(value) + seconds:.{len(value.partition('.')[2])}f}"
        end = stop
    return "".join([*moved, text[end:]])


def timestamp_spans(text: str) -> list[tuple[int, int]]:
    """Character ranges of the numbers in the time ranges of the reasoning, in order (both of `From 3.0s to 5.5s`).

    Two joined numbers are a time range when one of them has a unit or `from` or `between` stands before the first, so
    `2 to 3 people` is none. Units, single times and the answer are left out.
    """
    numbers = [number.span("value") for pair in _time_ranges(text, *think_span(text)) for number in pair]
    return list(dict.fromkeys(numbers))  # the middle number of "1s to 2s to 3s" is in two ranges


def answered_lines(text: str) -> list[tuple[int, int]]:
    """Character ranges of the lines of the reasoning that name the time range nearest to the answer: the highest IoU with it.
    None where no range shares anything with the answer."""
    answer, (position, end) = parse_answer(text), think_span(text)
    ious: dict[tuple[int, int], float] = {}
    for line in text[position:end].splitlines(keepends=True):
        span = position, position + len(line)
        named = [(float(first["value"]), float(second["value"])) for first, second in _time_ranges(text, *span)]
        ious[span] = max((temporal_iou(answer, found) for found in named), default=0.0)
        position += len(line)
    best = max(ious.values(), default=0.0)
    return [span for span, iou in ious.items() if iou == best > 0]


def _time_ranges(text: str, start: int, end: int) -> Iterator[tuple[re.Match, re.Match]]:
    """Joined numbers that are times: see `timestamp_spans`."""
    return (pair for pair in _number_pairs(text, start, end) if pair[0]["lead"] or pair[0]["unit"] or pair[1]["unit"])


def _last_answer(text: str) -> tuple[int, int] | None:
    """Character range of the inside of the last closed `<answer>` block."""
    block = None
    opened_at = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            opened_at = tag.end()
        elif opened_at is not None:
            block = (opened_at, tag.start())
            opened_at = None
    return block


def _number_pairs(text: str, start: int, end: int) -> Iterator[tuple[re.Match, re.Match]]:
    """Neighbouring numbers of `text[start:end]` with nothing but a joiner between them."""
    previous = None
    for number in _NUMBER.finditer(text, start, end):
        value_start = number.start("value")
        if previous is not None and _JOINER.fullmatch(text, previous.end(), value_start):
            yield previous, number
        elif text[value_start - 1 : value_start] in _SIGNS:
            previous = None
            continue
        previous = number


def _opening(query: str, captions: Sequence[TimedText], opening: str = OPENING) -> str:
    if not captions:
        raise ValueError("a reasoning path needs at least one caption, got none")
    lines = ["<think>", opening.replace("{query}", _bare(query))]
    for caption in sorted(captions, key=lambda caption: (caption.start, caption.end)):
        start, end = format_seconds(caption.start), format_seconds(caption.end)
        lines.append(f"From {start}s to {end}s, {' '.join(caption.text.split())}")
    return "\n".join(lines)


def _bare(query: str) -> str:
    return query.strip().rstrip(". ")
