import time

import pytest

from taro.data.samples import Caption
from taro.prepare.caption.parsing import json_event, parse_events


def events(text):
    return [(event.start, event.end, event.text.strip()) for event in parse_events(text).events]


@pytest.mark.parametrize(
    "line",
    [
        "From 1.5s to 4.0s, he waves.",
        "from 1.5 to 4, he waves.",
        "- From 1.5 to 4.0 seconds: he waves.",
        "3. **1.5s - 4.0s**: he waves.",
        "* **1.5s–4.0s:** he waves.",
        "• 1.5 sec to 4 sec | he waves.",
        "[1.5s - 4.0s] he waves.",
        "[1.5, 4.0] he waves.",
        "(1.5,4.0): he waves.",
        "<1.5 - 4.0 seconds> he waves.",
        "0:01.5 - 0:04: he waves.",
        "00:00:01.5 to 00:00:04 he waves.",
        "  1.5s-4s he waves.",
        "1.5 - 4.0: he waves.",
        "From 1.5s to 4.0s:\n\n   he waves.",
        '[{"start": 1.5, "end": 4, "text": "he waves."}]',
        '```json\n[{"start_time": "1.5s", "end_time": "0:04", "description": "he waves."}]\n```',
        '{"events": [{"timestamp": [1.5, 4.0], "event": "he waves."}]}',
        'Sure: {"time": "1.5s - 4.0s", "caption": "he waves."}',
        '[[1.5, 4.0, "he waves."]]',
        '[[[1.5, 4.0], "he waves."]]',
        "<think>From 7s to 8s, he sleeps.</think>\nFrom 1.5s to 4.0s, he waves.",
    ],
)
def test_usual_layouts(line):
    assert events(line) == [(1.5, 4.0, "he waves.")]
    assert parse_events(line).readable


@pytest.mark.parametrize(
    "line",
    [
        "-1.5s to 4.0s: he waves",
        "From 1.5s to -4.0s, he waves",
        "1e0 to 4e0: he waves",
        "1.5.2 to 4.0: he waves",
        "1,000 to 2,000: he waves",
        "1 to 2,000: he waves",
        "10 - 15% of them wave",
        "2 to 3 people wave",
        "12:75 - 13:00: he waves",
        "1-2-3: he waves",
        "From 1s to 2s to 3s, he waves",
        "x2 to 3s: he waves",
        "At 1.5s he waves until 4.0s",
        "From start to 4.0s, he waves",
        "He waves. From 1.5s to 4.0s, she sits.",
        '[{"start": NaN, "end": 4.0, "text": "he waves"}]',
        '[{"start": true, "end": 4.0, "text": "he waves"}]',
        '[{"start": "1.5x", "end": 4.0, "text": "he waves"}]',
        '[{"start": 1.5, "text": "he waves"}]',
        '[{"start": 1.5, "end": 4.0, "text": 7}]',
        '[{"start": 1' + "0" * 400 + ', "end": 4.0, "text": "he waves"}]',
        "7.0s, 7.0s, 12.1s, 6.0s,",
        "",
    ],
)
def test_what_is_no_timed_event(line):
    assert events(line) == [] and not parse_events(line).readable


def test_several_lines_and_what_stands_between():
    text = "Here is what happens:\n1. 0s - 2s: he sits\n\nFrom 2.0s to 3.5s, he 2 to 3 times waves\nThat is all."
    assert events(text) == [(0.0, 2.0, "he sits"), (2.0, 3.5, "he 2 to 3 times waves")]


def test_json_that_is_cut_off_keeps_its_whole_events():
    text = '```json\n[{"start": 0, "end": 2, "text": "he sits"}, {"start": 2, "end": 3, "text": "he wa'
    assert events(text) == [(0.0, 2.0, "he sits")]


def test_an_answer_that_is_cut_off_loses_the_line_that_it_breaks_off_in():
    text = "From 0s to 2s, he sits\nFrom 2s to 3s, he wa"
    assert len(parse_events(text).events) == 2
    assert parse_events(text, cut=True).events == parse_events(text.splitlines()[0]).events
    assert not parse_events("From 0s to 2s, he s", cut=True).readable
    assert len(parse_events('[[0, 2, "he sits"], [2, 3, "he', cut=True).events) == 1


@pytest.mark.parametrize("text", ["No events.", "**No events**", "There are no visible events.", "[]", "```json\n[]\n```"])
def test_nothing_happens(text):
    assert parse_events(text).readable and events(text) == []


@pytest.mark.parametrize("text", ["No events of note, but a man waves.", "no", "I can't see a video."])
def test_no_answer(text):
    assert not parse_events(text).readable


@pytest.mark.parametrize("piece", ["*", " ", "1 ", "1 to ", "1", "From ", "- ", "[1, "])
def test_degenerate_answers_take_no_time(piece):
    started = time.process_time()
    parse_events(piece * 100_000)
    assert time.process_time() - started < 20


def test_events_of_annotation_files():
    assert json_event({"start": 1, "end": "2.5", "text": "a"}) == Caption(1.0, 2.5, "a")
    assert json_event([1, 2, "a"]) == json_event([[1, 2], "a"]) == Caption(1.0, 2.0, "a")
    for value in (None, "a", [1, 2], [1, 2, 3], [[1], "a"], {"start": 1}, [1, 2, "a", "b"]):
        assert json_event(value) is None
