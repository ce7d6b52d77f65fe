import random
import re
import time

import pytest

from taro.rl.rewards.vital import _ANY_TAG, _TAG, Vital, _blocks, count_calls, last_numbers, scaled_iou, turns_have_format


@pytest.mark.parametrize(("iou", "scaled"), [(0.0, 0.0), (0.2, 0.0), (0.5, 0.5), (0.65, 0.75), (0.8, 1.0), (1.0, 1.0)])
def test_scaled_iou(iou, scaled):
    assert scaled_iou(iou) == pytest.approx(scaled)
    assert scaled_iou(iou, 0.0, 1.0) == pytest.approx(iou)
    with pytest.raises(ValueError, match="low must be below high"):
        scaled_iou(iou, 0.5, 0.5)


CALL = '<tool_call>{"name": "clip", "start": 1, "end": 9}</tool_call>'
TURNS = f"<think>a</think>{CALL}<think>b</think><answer>2.0s to 6.0s</answer>"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (TURNS, True),
        ("<think>a</think>\n<answer>b</answer>", True),
        ("<think>a</think><think>b</think><answer>c</answer>", False),
        ("<answer>c</answer>", False),
        ("<think>a</think>", False),
        ("<think>a</think> and <answer>c</answer>", False),
        ("<think>a</think><b>c</b><answer>c</answer>", False),
        ("so <think>a</think><answer>c</answer>", False),
        ("<think>a</think><answer>c</answer> or so", False),
        ("\n<think>a</think><answer>c</answer>\n", True),
        ("", False),
    ],
)
def test_turns(text, good):
    assert turns_have_format(text) == good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("so <think>a</think><answer>2 to 6</answer> ok", True),
        (f"so {TURNS} ok", True),
        ("so <think>a</think> and <answer>2 to 6</answer>", False),  # between blocks nothing may stand
        ("<b>so</b><think>a</think><answer>2 to 6</answer>", False),  # a block of another tag may stand nowhere
        ("<think>a</think><answer>2 to 6</answer><b c>ok</b c>", False),
        ("2 < 6 <think>a</think><answer>2 to 6</answer> > 1", True),
        ("so ok", False),
        ("", False),
    ],
)
def test_trap_text_around_the_turns_is_not_looked_at(complete, text, good):
    assert Vital(form="released")(complete(text))["format"] == float(good)
    assert Vital()(complete(text))["format"] == 0.0


@pytest.mark.parametrize(("tag", "kind"), [(_TAG, r"\w+"), (_ANY_TAG, "[^<>]*")])
def test_blocks_are_those_of_a_plain_pattern(tag, kind):
    rng, plain = random.Random(0), re.compile(rf"<({kind})>(.*?)</\1>", re.DOTALL)
    pieces, found = ("<a>", "</a>", "<b c>", "</b c>", "<>", "</>", "<", ">", "</", "a", " "), 0
    for _ in range(2000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        blocks = [(block[1], block[2], *block.span()) for block in plain.finditer(text)]
        assert list(map(tuple, _blocks(text, tag))) == blocks, text
        found += len(blocks)
    assert found > 200


def test_tags_that_stay_open_are_read_in_time():
    started = time.process_time()
    assert not turns_have_format("<think>" * 6000) and count_calls("<tool_call>" * 6000) == 0
    assert time.process_time() - started < 2


def test_calls_are_counted_where_they_are_json():
    assert count_calls(TURNS) == 1 and count_calls("<tool_call>clip(1, 9)</tool_call>") == 0
    assert count_calls("<tool_call>[1]</tool_call>" + CALL * 3) == 3


def test_sum_by_hand(complete):
    for form in ("published", "released"):
        assert Vital(form=form)(complete(TURNS)) == {
            "iou": pytest.approx(1.0), "format": 1.0, "tool": 0.5,
        }  # fmt: skip
    assert Vital()(complete(CALL * 5 + TURNS))["tool"] == 0.0
    turns = "<think>a</think>" + f"{CALL}<think>b</think>" * 5 + "<answer>2 to 6</answer>"
    assert Vital()(complete(turns)) == {"iou": 1.0, "format": 1.0, "tool": 1.0}


def test_trap_calls_are_paid_without_the_format(complete):
    text = f"{CALL} and then {CALL}"
    assert Vital()(complete(text)) == {"iou": 0.0, "format": 0.0, "tool": 0.0}
    assert Vital(form="released")(complete(text))["tool"] == 1.0


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("<think>from 2 to 6</think>\n<answer>soon</answer>", (2.0, 6.0)),
        ("2 to 6\n9 to 8", (2.0, 6.0)),  # a reversed pair is passed over
        ("1, 2, 6\n7", (1.0, 2.0)),
        ("2.9s to 6.9s", (2.0, 6.0)),  # a unit that touches cuts the decimals
        ("1:05", (1.0, 5.0)),
        ("7", None),
        ("9" * 400 + " " + "9" * 400, None),
    ],
)
def test_trap_the_last_numbers_of_all_are_the_answer(text, span):
    assert last_numbers(text) == span


def test_trap_an_answer_in_the_reasoning(complete):
    text = complete("<think>2 to 6</think><answer>I can't say.</answer>")
    assert Vital()(text)["iou"] == 0.0 and Vital(form="released")(text)["iou"] == 1.0
