import random

import pytest

from taro.data.samples import Caption
from taro.prepare.caption.merging import arrange, check_events, merge_windows
from taro.prepare.caption.videos import Window, cut_windows


def test_what_the_checks_keep():
    events = [
        Caption(1.0, 2.0, "  *he\n  waves* "),
        Caption(-0.5, 1.0, "he sits"),
        Caption(7.0, 8.9, "he leaves"),
    ]
    kept, rejected = check_events(events, 8.0)
    assert kept == [Caption(1.0, 2.0, "he waves"), Caption(0.0, 1.0, "he sits"), Caption(7.0, 8.0, "he leaves")]
    assert not rejected


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Caption(2.0, 2.0, "a"), "start not before end"),
        (Caption(3.0, 2.0, "a"), "start not before end"),
        (Caption(1.0, 2.0, " .* "), "no text"),
        (Caption(1.0, 2.0, "he </think> waves"), "a think or answer tag in the text"),
        (Caption(-1.1, 2.0, "a"), "outside of what is shown"),
        (Caption(7.0, 9.1, "a"), "outside of what is shown"),
        (Caption(8.0, 8.5, "a"), "outside of what is shown"),
        (Caption(-0.5, 0.0, "a"), "outside of what is shown"),
        (Caption(1.0, float("inf"), "a"), "times that are no numbers"),
    ],
)
def test_what_the_checks_reject(event, reason):
    assert check_events([event], 8.0) == ([], {reason: 1})


def merged(*parts):
    return arrange(merge_windows(parts), 100.0)[0]


def test_an_event_over_a_border_is_one():
    first, second = Window(0.0, 8.0), Window(6.0, 14.0)
    parts = [
        (second, [Caption(0.0, 3.0, "The red square moves left.")]),
        (first, [Caption(2.0, 8.0, "a red square moves left")]),
    ]
    assert merged(*parts) == [Caption(2.0, 9.0, "a red square moves left")]


def test_an_event_over_several_windows_is_one():
    windows = cut_windows(40.0, 10.0, 2.0)
    assert len(windows) == 5
    parts = [(window, [Caption(0.0, window.length, "he sleeps")]) for window in windows]
    assert merged(*parts) == [Caption(0.0, 40.0, "he sleeps")]


def test_other_words_for_the_same_event():
    first, second = Window(0.0, 8.0), Window(6.0, 14.0)
    parts = [(first, [Caption(6.2, 8.0, "a man opens a door")]), (second, [Caption(0.3, 4.0, "the person opens the door")])]
    assert merged(*parts) == [Caption(6.2, 10.0, "the person opens the door")]


def test_the_same_words_for_parts_of_an_event():
    first, second = Window(0.0, 8.0), Window(6.0, 14.0)
    assert merged((first, [Caption(7.0, 8.0, "he waves")]), (second, [Caption(1.8, 6.0, "He waves.")])) == [
        Caption(7.0, 12.0, "He waves.")
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Caption(6.0, 8.0, "a man opens a door"), Caption(0.0, 2.0, "a dog barks")),  # at the same time
        (Caption(6.0, 7.0, "a man waves to her"), Caption(0.5, 2.0, "a man waves to him")),  # mostly one after the other
        (Caption(1.0, 5.0, "a man waves"), Caption(2.5, 4.0, "a man waves")),  # no part that both windows show
    ],
)
def test_different_events_stay_two(one, other):
    assert len(merged((Window(0.0, 8.0), [one]), (Window(6.0, 14.0), [other]))) == 2


def test_two_events_of_one_window_never_become_one():
    first, second = Window(0.0, 8.0), Window(6.0, 14.0)
    twice = [Caption(6.1, 6.8, "he claps"), Caption(7.1, 7.9, "he claps")]
    again = [Caption(0.1, 0.8, "he claps"), Caption(1.1, 1.9, "he claps")]
    assert merged((first, twice), (second, again)) == twice
    assert merged((first, [Caption(6.1, 7.9, "he claps")]), (second, again)) == [
        Caption(6.1, 7.9, "he claps"),
        Caption(7.1, 7.9, "he claps"),
    ]


def test_captions_are_in_order_and_none_twice():
    captions = [
        Caption(5.004, 7.0, "b"),
        Caption(1.0, 3.0, "A man!"),
        Caption(1.1, 3.0, "a man"),
        Caption(1.0, 3.0, "a dog"),
        Caption(20.0, 30.001, "c"),
        Caption(20.001, 20.004, "d"),
    ]
    kept, rejected = arrange(captions, 30.0)
    assert kept == [Caption(1.0, 3.0, "A man!"), Caption(1.0, 3.0, "a dog"), Caption(5.0, 7.0, "b"), Caption(20.0, 30.0, "c")]
    assert rejected == {"duplicate": 1, "start not before end": 1}


def test_random_events_survive_cutting_and_merging():
    """Every window tells what it shows of the true events."""
    rng = random.Random(0)
    for _ in range(50):
        duration, place, truth = rng.uniform(20, 90), 0.0, []
        while place < duration - 4:
            start = place + rng.uniform(0.2, 4)
            place = min(start + rng.uniform(0.5, 15), duration)
            truth.append(Caption(round(start, 1), round(place, 1), f"number {len(truth)} moves"))
        truth = [event for event in truth if event.start < event.end <= duration]
        parts = []
        for window in cut_windows(duration, 10.0, 3.0):
            inside = [event for event in truth if event.start < window.end and event.end > window.start]
            cut = [(max(e.start, window.start), min(e.end, window.end), e.text) for e in inside]
            shown = [Caption(start - window.start, end - window.start, text) for start, end, text in cut]
            parts.append((window, shown))
        assert arrange(merge_windows(parts), duration)[0] == truth
