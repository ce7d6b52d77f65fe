import json
import math

import pytest

from taro.view.timeline import NamedTime, Timeline, Track, axis_length, find_times, ticks, to_json, token_gaps

TEXT = "<think>At 2s, 3 people. From 4.5 to 6s, rain.</think><answer>4.5s to 6s</answer>"


def test_times_are_those_of_the_reasoning():
    assert find_times(None) == []
    assert [(time.seconds, TEXT[time.start : time.end]) for time in find_times(TEXT)] == [(2, "2"), (4.5, "4.5"), (6, "6")]


@pytest.mark.parametrize(
    ("duration", "spans", "length"),
    [(30.0, [(0, 50)], 30.0), (math.nan, [(1, 10), (2, 20)], 21.0), (math.nan, [], 1.0), (0.0, [(0, 0)], 1.0)],
)
def test_the_axis_of_a_video_of_unknown_length_ends_after_the_last_time(duration, spans, length):
    assert axis_length(duration, spans) == length


def test_gaps_are_those_of_tokens_with_characters_and_finite_log_probs():
    gaps = token_gaps([(0, 2), (2, 2), (2, 3), (3, 4)], [-1.0, -1.0, float("nan"), -2.0], [-3.0, -1.0, -1.0, -1.5])
    assert [(token.gap, token.start, token.end) for token in gaps] == [(2.0, 0, 2), (-0.5, 3, 4)]
    assert Track("a", None, 0.0, gaps=gaps).largest_gap == 2.0


@pytest.mark.parametrize("length", [0.3, 1, 9.99, 35.14, 150, 7200.0])
def test_ticks_are_few_and_within_the_axis(length):
    found = ticks(length)
    assert 2 <= len(found) <= 7 and found[0] == 0 and found[-1] <= length + 1e-9


def test_as_json():
    timeline = Timeline(math.nan, ((1.0, 2.0),), (Track("#1", (3.0, 1.0), 0.5, "n", TEXT), Track("#2", None, 0.0)))
    data = json.loads(json.dumps(to_json(timeline), allow_nan=False))
    assert data["duration"] == pytest.approx(1.05 * 3) and data["truths"] == [[1.0, 2.0]]
    assert data["tracks"][0]["span"] == [3.0, 1.0] and data["tracks"][1]["span"] is None
    assert NamedTime(*data["tracks"][0]["times"][0]) == NamedTime(2.0, 10, 11)
