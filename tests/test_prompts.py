import random
import time
from dataclasses import dataclass

import pytest

from taro import prompts


@dataclass(frozen=True)
class Caption:
    start: float
    end: float
    text: str


CAPTIONS = [Caption(0.0, 2.5, "a man enters."), Caption(2.5, 6.0, "he sits down."), Caption(6.0, 9.25, "he reads.")]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3.0"), (3.25, "3.2"), (12.449, "12.4"), (-0.01, "0.0"), (14220.0, "14220.0")]
)
def test_format_seconds(seconds, text):
    assert prompts.format_seconds(seconds) == text


@pytest.mark.parametrize("query", ["a dog jumps", "a dog jumps.", " a dog jumps. ", "a dog jumps . "])
def test_request_supplies_the_period_itself(query):
    assert prompts.build_request(query, "Find: {query}.") == "Find: a dog jumps."


def test_request_keeps_other_braces_and_inner_punctuation():
    assert prompts.build_request("e.g. {this}?", '{"find": "{query}"} {0}') == '{"find": "e.g. {this}?"} {0}'


def test_request_without_placeholder_is_an_error():
    with pytest.raises(ValueError, match=r"must contain the placeholder \{query\}, got 'Find it'"):
        prompts.build_request("a dog jumps", "Find it")


def test_default_prompt_asks_for_what_the_parser_and_the_rewards_read():
    request = prompts.build_request("a dog jumps.")
    assert "a dog jumps." in request and "{query}" not in request and ".." not in request
    example = request[request.index("<think>\n") :]
    assert prompts.has_format(example)
    assert prompts.reasoning_has_timestamp(example)
    assert prompts.parse_answer(example) == (8.5, 12.4)
    assert "<answer>8.50s to 12.40s</answer>" in example


def test_constructed_path_of_one_caption_is_exact():
    path = prompts.constructed_path("A man reads. ", [Caption(6, 9.25, " he\n reads. ")], random.Random(0))
    assert path == "<think>\nI need to find the specific moment A man reads.\nFrom 6.0s to 9.2s, he reads."


def test_constructed_paths_draw_every_size_equally_and_keep_time_order():
    rng = random.Random(0)
    unordered = [CAPTIONS[2], CAPTIONS[0], CAPTIONS[1]]
    lines = [f"From {c.start:.1f}s to {c.end:.1f}s, {c.text}" for c in CAPTIONS]
    counts = {}
    for _ in range(3000):
        path = prompts.constructed_path("q", unordered, rng).split("\n")
        assert path[:2] == ["<think>", "I need to find the specific moment q."]
        chosen = tuple(lines.index(line) for line in path[2:])
        assert chosen == tuple(sorted(set(chosen)))
        counts[chosen] = counts.get(chosen, 0) + 1
    expected = {(0,): 1 / 9, (1,): 1 / 9, (2,): 1 / 9, (0, 1): 1 / 9, (0, 2): 1 / 9, (1, 2): 1 / 9, (0, 1, 2): 1 / 3}
    assert {chosen: count / 3000 for chosen, count in counts.items()} == pytest.approx(expected, abs=0.04)


def test_constructed_path_follows_the_generator():
    draw = [prompts.constructed_path("q", CAPTIONS, random.Random(seed)) for seed in range(20)]
    assert draw == [prompts.constructed_path("q", CAPTIONS, random.Random(seed)) for seed in range(20)]
    assert len(set(draw)) > 1


def test_full_path_is_exact_and_has_the_format():
    path = prompts.full_path("a man reads.", CAPTIONS[::-1], prompts.format_spans([(6, 9.25)]))
    assert path == (
        "<think>\nI need to find the specific moment a man reads.\n"
        "From 0.0s to 2.5s, a man enters.\nFrom 2.5s to 6.0s, he sits down.\nFrom 6.0s to 9.2s, he reads.\n"
        "</think>\n<answer>6.0s to 9.2s</answer>"
    )
    assert prompts.has_format(path)
    assert prompts.parse_answer(path) == (6.0, 9.2)


def test_paths_without_captions_are_errors():
    with pytest.raises(ValueError, match="at least one caption"):
        prompts.constructed_path("q", [], random.Random(0))
    with pytest.raises(ValueError, match="at least one caption"):
        prompts.full_path("q", [], "none")


@pytest.mark.parametrize(
    ("block", "span"),
    [
        ("8.50s to 12.40s", (8.5, 12.4)),
        ("8.50 to 12.40", (8.5, 12.4)),
        ("8 s and 12 s", (8.0, 12.0)),
        ("8.50s - 12.40s", (8.5, 12.4)),
        ("8.50s – 12.40s", (8.5, 12.4)),
        ("8.50s—12.40s", (8.5, 12.4)),
        ("8.5−12.4", (8.5, 12.4)),
        ("8.5-12.4", (8.5, 12.4)),
        ("8.5 seconds to 12.4 seconds", (8.5, 12.4)),
        ("8.5 Sec TO 12.4 SECONDS.", (8.5, 12.4)),
        ("between 1 second and 2 secs", (1.0, 2.0)),
        ("\n  .5s to 1.s\n", (0.5, 1.0)),
        ("12.40s to 8.50s", (12.4, 8.5)),
        ("from 3.0 to 4.0 and from 5.0s to 6.5s", (5.0, 6.5)),
        ("3.0s to 4.0s,5.0s to 6.5s", (5.0, 6.5)),
        ("1 to 2 to 3", (2.0, 3.0)),
        ("3.0s to 4.0s, of a 20 s video", (3.0, 4.0)),
        ("event 2: 3.0s to 4.0s", (3.0, 4.0)),
        ("- 3.0s to 4.0s", (3.0, 4.0)),
        ("0 to 007", (0.0, 7.0)),
        ("", None),
        ("8.5s", None),
        ("8.5s 12.4s", None),
        ("8.5s, 12.4s", None),
        ("8.5s until 12.4s", None),
        ("8.5s to about 12.4s", None),
        ("12:30 to 12:45", None),
        ("00:12 - 00:15", None),
        ("1e5 to 2e5", None),
        ("1.2.3 to 4", None),
        ("1,000 to 2,000", None),
        ("1,000 to 2", None),
        ("1 to 2,000", None),
        ("1 to 12:30", None),
        ("1 to 2%", None),
        ("4 to 1.2.3", None),
        ("3,5 to 4,5", None),
        ("10% to 20%", None),
        ("x2 to y3", None),
        ("2x to 3x", None),
        ("-5 to 3", None),
        ("5 to -3", None),
        ("nan to inf", None),
        ("٣ to ٤", None),
        ("1 to " + "9" * 400, None),
    ],
)
def test_parse_answer_block(block, span):
    assert prompts.parse_answer(f"<think>From 1s to 2s</think>\n<answer>{block}</answer>") == span


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("3 to 4", None),
        ("<answer>3 to 4", None),
        ("3 to 4</answer>", None),
        ("<think>3 to 4</think><answer></answer> 5 to 6", None),
        ("<answer>3 to 4</answer><answer>none</answer>", None),
        ("<answer>1 to 2</answer> <answer>3 to 4</answer>", (3.0, 4.0)),
        ("<answer>1 to 2</answer> <answer>3 to 4", (1.0, 2.0)),
        ("<answer>1 to 2</answer> 3 to 4</answer>", (1.0, 2.0)),
        ("<answer>1 to 2 <answer>3 to 4</answer>", (3.0, 4.0)),
        ("<answer>1 to <answer>4</answer>", None),
        ("<think>so <answer>3 to 4</answer>", (3.0, 4.0)),
        ("<think>so <answer>3 to 4</answer></think>", (3.0, 4.0)),
        ("<ANSWER>3 to 4</Answer>", (3.0, 4.0)),
        ("İ <answer>3 to 4</answer>", (3.0, 4.0)),
        ("7<answer>3 to 4</answer>8", (3.0, 4.0)),
    ],
)
def test_parse_answer_takes_the_last_closed_block(text, span):
    assert prompts.parse_answer(text) == span


READERS = (
    prompts.parse_answer, prompts.parse_spans, prompts.timestamp_spans, prompts.reasoning_has_timestamp, prompts.has_format,
)  # fmt: skip
UNITS = ["1", " ", "1 ", "1s to ", "1.", ".", "-", "from ", "from 1 ", "<answer>", "<think>", "</answer>", "1:", "1,", "s",
         "to ", "<answer>1 to 2", "<think>1s to 2s</think>"]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_long_repeated_text_is_read_in_linear_time(unit):
    """A quadratic reading takes minutes of the processor, whatever else it does meanwhile."""
    repeated, started = unit * (50_000 // len(unit)), time.process_time()
    for read in READERS:
        read(f"<think>{repeated}")
        read(f"<think>{repeated}</think><answer>{repeated}</answer>")
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", True),
        ("\n<think>\na\n</think>\n \n<answer>b</answer>\n", True),
        ("<think></think><answer></answer>", True),
        ("<think>a</think> so <answer>b</answer>", False),
        ("well <think>a</think><answer>b</answer>", False),
        ("<think>a</think><answer>b</answer>.", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a<answer>b</answer></think>", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", False),
        ("<think>a<think>b</think><answer>c</answer>", False),
        ("<think>a</think></think><answer>c</answer>", False),
        ("<Think>a</Think><answer>b</answer>", False),
        ("<answer>b</answer>", False),
        ("<think>a</think><answer>b", False),
        ("", False),
    ],
)
def test_has_format(text, expected):
    assert prompts.has_format(text) is expected


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ("<think>one</think><answer>two</answer>", "one"),
        ("x<think>one</think>y<think>two</think>", "one"),
        ("<think>one <answer>2</answer></think>", "one <answer>2</answer>"),
        ("<THINK>one</Think>", "one"),
        ("</think><think>one", "one"),
        ("<think>one<answer>two</answer>", "one"),
        ("<think>", ""),
        ("one</think>", ""),
        ("", ""),
    ],
)
def test_think_span(text, reasoning):
    start, end = prompts.think_span(text)
    assert text[start:end] == reasoning


@pytest.mark.parametrize(
    ("reasoning", "numbers"),
    [
        ("From 3.0s to 5.5s, a man.", ["3.0", "5.5"]),
        ("from 3 to 4 he runs, between 6 and 7.5 he sits", ["3", "4", "6", "7.5"]),
        ("3 - 4 seconds", ["3", "4"]),
        ("3s - 4", ["3", "4"]),
        ("1s to 2s to 3s", ["1", "2", "3"]),
        ("2 to 3 people, at 8.2s", []),
        ("3.0s and then 4.0s", []),
        ("from 12:30 to 12:40", []),
        ("", []),
    ],
)
def test_timestamp_spans_are_the_numbers_of_ranges(reasoning, numbers):
    text = f"From 0s to 1s <think>{reasoning}</think><answer>8.0s to 9.0s</answer>"
    assert [text[start:end] for start, end in prompts.timestamp_spans(text)] == numbers


def test_named_times_are_those_of_ranges_and_those_with_a_unit():
    text = "<think>At 2s, 3 people go 4 times. From 4.5 to 6s, and 7 seconds.</think><answer>8s to 9s</answer>"
    assert [text[start:end] for start, end in prompts.named_times(text)] == ["2", "4.5", "6", "7"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>at 3.5s</think>", True),
        ("<think>at 3.5 s he", True),
        ("<think>From 3.5 to 4</think>", True),
        ("<think>after 12 seconds</think>", True),
        ("<think>at 3 Sec</think>", True),
        ("<think>3 shirts, 2 to 3 people, step 4</think>", False),
        ("<think>he runs</think><answer>3.5s to 4s</answer>", False),
        ("<think>he runs <answer>3.5s to 4s</answer>", False),
        ("at 3.5s", False),
        ("<think></think>", False),
    ],
)
def test_reasoning_has_timestamp(text, expected):
    assert prompts.reasoning_has_timestamp(text) is expected


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ("2.0s to 6.0s", [(2.0, 6.0)]),
        ("1 to 2 and 3 to 4", [(1.0, 2.0), (3.0, 4.0)]),
        ("1-2 3-4", [(1.0, 2.0), (3.0, 4.0)]),
        ("6 to 2, 3 to 3", [(6.0, 2.0), (3.0, 3.0)]),  # as written
        ("1 to 2 to 3", [(1.0, 2.0)]),
        ("none", []),
        (" The event does not occur in the video.\n", []),
        ("No such event.", []),
        ("no such event in the video", []),
        ("It doesn’t happen.", []),
        ("[]", []),
        ("none of these, 2 to 6", [(2.0, 6.0)]),
        ("2", None),
        ("1:05 to 1:09", None),
        ("", None),
        ("soon", None),
        (f"{'9' * 400} to 3", None),
    ],
)
def test_parse_spans(answer, spans):
    assert prompts.parse_spans(f"<think>0 to 1</think><answer>{answer}</answer>") == spans


def test_an_answer_is_the_last_closed_block():
    assert prompts.parse_spans("2 to 6") is None and prompts.answer_text("<answer>2 to 6") is None
    text = "<answer>none</answer><answer>2 to 6</answer><answer>7 to 8"
    assert prompts.answer_text(text) == "2 to 6" and prompts.parse_spans(text) == [(2.0, 6.0)]
    assert prompts.spans_in("From 0 to 1, <answer>2 - 6</answer>") == [(0.0, 1.0), (2.0, 6.0)]
    assert prompts.numbers_in("7 s, 3.50 and 17.0; not 1:05") == [7.0, 3.5, 17.0]


def test_times_are_shifted_where_a_time_is_read():
    text = "<think>At 3.5s 2 dogs; from 4 to 6.25 one runs.</think><answer>3.50s to 6s</answer> in 3 words"
    moved = "<think>At 103.5s 2 dogs; from 104 to 106.25 one runs.</think><answer>103.50s to 106s</answer> in 3 words"
    assert prompts.shift_times(text, 100.0) == moved and prompts.shift_times("nothing", 5.0) == "nothing"
    assert prompts.parse_answer(moved) == (103.5, 106.0)
