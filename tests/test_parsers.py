"""Every parser of a model's text reads 100,000 random ones: none raises, and what is found can be used."""

import math
import random
import time
from itertools import islice

import pytest

from taro import prompts
from taro.prepare.caption.parsing import parse_events
from taro.rl.rewards import museg, onethinker, released, tar_tvg, timelens2, videochat_r1, vital
from taro.rl.rewards.timelens2_released import released_spans

COUNT = 100_000
SPANS = (prompts.parse_spans, tar_tvg.anchors, timelens2.parse_json_spans, released_spans)
ONE_SPAN = (prompts.parse_answer, onethinker.read_time, vital.last_numbers)


def read_segments(text):
    return museg.read_segments(text.split())


RANGES = (prompts.named_times, prompts.answer_times, prompts.timestamp_spans, prompts.answered_lines)  # of characters
OTHERS = (
    prompts.choice, prompts.find_tag, prompts.has_format, prompts.reasoning_has_timestamp, released.loose_format,
    released.bare_span, videochat_r1.read_glue, videochat_r1.read_glue_as_released,
    read_segments, vital.turns_have_format, vital.count_calls, parse_events,
)  # fmt: skip
PIECES = (
    "<think>", "</think>", "</think><answer>", "<answer>", "</answer>", "</answer>", "</answer>", "<ANSWER>", "</answer",
    "<glue>", "</glue>", "<timestamp>", "</timestamp>", "<tool_call>", "</tool_call>", '{"time": [', "[[", "]]", "], [", "{}",
    "(", ")", ", ", "2", "6.0", "12.5", ".5", "3.", "-4", "1:05", "7s", "8 seconds", "1,000", "1e5", "NaN", "Infinity",
    "0", "9" * 310, " to ", "to", "-", "–", " and ", "from ", "between ", "s", " ", "\n", "\0", "none", "B", "C.", "é",
    "\u0663", "\uff14", "\u00b2", "\u2028", "\ud800", "\ufffd", "2 to 6", "the red square",
)  # fmt: skip
NUMBERS = ("2", "6.0", "12.5", "1:05", "-4", "1e5", "9" * 310)
FORMS = (  # some of which every parser reads
    "<think>from {0} to {1}</think><answer>{0} to {1}{2}</answer>", "<think><timestamp>{0} to {1}</timestamp>{2}</think>",
    "<glue>[({0}, {1})]{2}</glue>", '{{"time": [{0}, {1}]}}{2}', "[[{0}, {1}]]{2}", "<answer>{2}</answer>", "{2}", "{2}", "{2}",
)  # fmt: skip
MOST = 5  # pieces of a text


def texts(count):
    """So many, no two of them alike."""
    rng, found = random.Random(0), set()
    while len(found) < count:
        more = count - len(found)
        pieces, numbers = iter(rng.choices(PIECES, k=MOST * more)), rng.choices(NUMBERS, k=more + 1)
        for number, form in enumerate(rng.choices(FORMS, k=more)):
            text = form.format(*numbers[number : number + 2], "".join(islice(pieces, rng.randrange(MOST))))
            if text not in found:
                found.add(text)
                yield text


def is_finite(span):
    return math.isfinite(span[0]) and math.isfinite(span[1])


@pytest.mark.slow
def test_no_text_breaks_a_parser():
    """In time of the processor, whatever else it does meanwhile."""
    started, found = time.process_time(), dict.fromkeys((*SPANS, *ONE_SPAN, *RANGES), 0)
    for text in texts(COUNT):
        for read in SPANS:
            spans = read(text) or ()
            found[read] += len(spans)
            assert all(map(is_finite, spans)), (read, text)
        for read in ONE_SPAN:
            span = read(text)
            found[read] += span is not None
            assert span is None or is_finite(span), (read, text)
        for read in RANGES:
            ranges = read(text)
            found[read] += len(ranges)
            assert all(0 <= start <= end <= len(text) for start, end in ranges), (read, text)
        for read in OTHERS:
            read(text)
    assert min(found.values()) > 0, found  # texts that can be read are among them
    assert time.process_time() - started < 100
