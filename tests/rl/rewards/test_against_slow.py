"""Published forms on random completions, against rewards that are counted in half seconds of the spans that a text was made of:
nothing here reads one."""

import random
from dataclasses import dataclass

import pytest

from taro.rl.rewards.dapo import overlong_penalty
from taro.rl.rewards.onethinker import OneThinker
from taro.rl.rewards.ra_rft import RaRft
from taro.rl.rewards.tar_tvg import TarTvg
from taro.rl.rewards.time_r1 import TimeR1
from taro.rl.rewards.timelens import TimeLens
from taro.rl.rewards.videoauto_r1 import VideoAutoR1
from taro.rl.rewards.videochat_r1 import VideoChatR1
from taro.rl.rewards.vital import Vital

CASES = 300
DURATION = 20.0


@dataclass
class Case:
    """What a completion says. Times are seconds, and whole halves of one."""

    first: tuple[float, float]
    answer: tuple[float, float]
    truth: tuple[float, float]
    anchors: list[tuple[float, float]]
    calls: int
    thinks: bool


def cases():
    rng = random.Random(0)

    def span():
        start, end = sorted(rng.sample(range(int(2 * DURATION) + 1), 2))
        return start / 2, end / 2

    for _ in range(CASES):
        truth = span()
        answer = truth if rng.random() < 0.1 else span()
        yield Case(span(), answer, truth, [span() for _ in range(rng.randint(0, 3))], rng.randint(0, 3), rng.random() < 0.7)


def cells(span):
    return {half for half in range(int(2 * DURATION)) if span[0] <= half / 2 and (half + 1) / 2 <= span[1]}


def slow_iou(one, other):
    return len(cells(one) & cells(other)) / len(cells(one) | cells(other))


def slow_soft_iou(one, other):
    """Below 0 it is the gap's share of all that lies between the outer ends."""
    between = {half for half in range(int(2 * DURATION)) if min(one[0], other[0]) <= half / 2 < max(one[1], other[1])}
    return (len(cells(one) & cells(other)) - len(between - cells(one) - cells(other))) / len(between)


def slow_timestamp_iou(case):
    off = [abs(case.answer[end] - case.truth[end]) / DURATION for end in (0, 1)]
    return slow_iou(case.answer, case.truth) * (1 - off[0]) * (1 - off[1])


def text_of(case, answer=None):
    answer = f"{case.answer[0]}s to {case.answer[1]}s" if answer is None else answer
    reasoning = "I look. " + " ".join(f"<timestamp>{a}s to {b}s</timestamp>" for a, b in case.anchors)
    return (f"<think>{reasoning}</think>" if case.thinks else "") + f"<answer>{answer}</answer>"


def test_time_r1_and_what_ra_rft_pays_where_the_event_occurs(complete):
    for case in cases():
        completion = complete(text_of(case), truth=[case.truth], duration=DURATION)
        iou = pytest.approx(slow_timestamp_iou(case))
        assert TimeR1()(completion) == {"format": float(case.thinks), "iou": iou}
        assert RaRft()(completion) == {"format": float(case.thinks), "grounding": iou}


def test_videochat_r1(complete):
    for case in cases():
        completion = complete(text_of(case), truth=[case.truth], duration=DURATION)
        iou = pytest.approx(slow_iou(case.answer, case.truth))
        assert VideoChatR1()(completion) == {"format": float(case.thinks), "iou": iou}


def test_videochat_r1_of_questions(complete):
    for k, case in enumerate(cases()):
        said = [case.first, case.answer, *case.anchors]
        text = f"<think>I look.</think><answer>{'AB'[k % 2]}</answer><glue>{said}</glue>"
        row = {"answer": "A", "choices": ["yes", "no"], "question": "?"}
        completion = complete(text, truth=[case.truth, case.first], task="grounded_qa", duration=DURATION, **row)
        covered, truth = (set().union(*map(cells, spans)) for spans in (said, [case.truth, case.first]))
        expected = {"format": 1.0, "iou": len(covered & truth) / len(covered | truth), "answer": float(k % 2 == 0)}
        assert VideoChatR1()(completion) == pytest.approx(expected)


def test_timelens(complete):
    for case in cases():
        sentence = f"The event happens in {case.answer[0]} - {case.answer[1]} seconds."
        completion = complete(sentence, truth=[case.truth], duration=DURATION)
        assert TimeLens()(completion) == pytest.approx(slow_iou(case.answer, case.truth))


@pytest.mark.parametrize("count", [None, 2])
def test_tar_tvg(complete, count):
    for case in cases():
        completion = complete(text_of(case), truth=[case.truth], duration=DURATION)
        anchors = case.anchors if case.thinks and count in (None, len(case.anchors)) else []
        pays, before = 0.0, -1.0
        for k, anchor in enumerate(anchors, 1):
            if slow_soft_iou(anchor, case.truth) > before:
                pays += k / sum(range(len(anchors) + 1))
            before = slow_soft_iou(anchor, case.truth)
        parts = TarTvg(count=count)(completion)
        soft = slow_soft_iou(case.answer, case.truth)
        assert parts == pytest.approx({"format": float(case.thinks), "soft_iou": soft, "anchors": pays})


def test_vital(complete):
    for case in cases():
        think, call = "<think>I look.</think>", '<tool_call>{"name": "clip"}</tool_call>'
        turns = (think + call) * case.calls + think * case.thinks
        iou = slow_iou(case.answer, case.truth)
        whole = case.thinks or case.calls > 0  # an answer may follow a call
        expected = {
            "iou": 0.0 if iou < 0.2 else 1.0 if iou > 0.8 else (iou - 0.2) / 0.6,
            "format": float(whole),
            "tool": [0.0, 0.5, 1.0, 1.0][case.calls],
        }
        text = f"{turns}<answer>{case.answer[0]} to {case.answer[1]}</answer>"
        assert Vital()(complete(text, truth=[case.truth], duration=DURATION)) == pytest.approx(expected)


def test_onethinker(complete):
    for case in cases():
        text = text_of(case, f'{{"time": [{case.answer[0]}, {case.answer[1]}]}}')
        whole = float(case.thinks)
        expected = {"iou": slow_iou(case.answer, case.truth), "format": whole, "structure": whole / 2}
        assert OneThinker()(complete(text, truth=[case.truth], duration=DURATION)) == pytest.approx(expected)


def test_videoauto_r1(complete):
    for case in cases():
        first = f"{case.first[0]} to {case.first[1]}" if case.thinks else "Let's analyze the problem step by step."
        text = rf"\boxed{{{first}}}<think>I look.</think>\boxed{{{case.answer[0]} to {case.answer[1]}}}"
        ious = [slow_iou(span, case.truth) for span in (case.first, case.answer)]
        expected = {
            "first": 0.9 * ious[0] * case.thinks,
            "second": 1.1 * ious[1],
            "abstention": 0.3 * (not case.thinks and ious[1] > 0.7),
            "format": 1.0,
        }
        assert VideoAutoR1()(complete(text, truth=[case.truth], duration=DURATION)) == pytest.approx(expected)


def test_dapo():
    """Each token in the buffer costs one share of it."""
    rng = random.Random(0)
    for _ in range(CASES):
        longest = rng.randint(1, 60)
        buffer, tokens = rng.randint(1, longest), rng.randint(0, 80)
        paid = sum(1 / buffer for place in range(longest - buffer, longest) if place < tokens)
        assert overlong_penalty(tokens, longest, buffer) == pytest.approx(-paid)
