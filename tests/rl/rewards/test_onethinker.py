import pytest

from taro.rl.rewards.onethinker import OneThinker, read_time

TEXT = "<think>a</think><answer>{}</answer>"


def test_sums_by_hand(complete):
    right = complete(TEXT.format('{"time": [2, 6.0]}'))
    assert OneThinker()(right) == {"iou": 1.0, "format": 1.0, "structure": 0.5}
    assert OneThinker(form="released")(right) == {"iou": 0.9, "format": 0.1, "structure": 0.5}
    half = complete(TEXT.format('{"time": [4, 6]}'))
    assert OneThinker()(half)["iou"] == 0.5 and OneThinker(form="released")(half)["iou"] == pytest.approx(0.45)


def test_the_structure_needs_the_format(complete):
    bare = complete('<answer>{"time": [2, 6]}</answer>')
    assert OneThinker()(bare) == {"iou": 1.0, "format": 0.0, "structure": 0.0}
    assert OneThinker(form="released")(bare) == {"iou": 0.9, "format": 0.0, "structure": 0.0}


def test_trap_the_first_answer_block_counts(complete):
    twice = complete(TEXT.format('{"time": [9, 12]}</answer><answer>{"time": [2, 6]}'))
    assert OneThinker()(twice)["iou"] == 1.0 and OneThinker(form="released")(twice)["iou"] == 0.0
    without = complete('{"time": [2, 6]}')
    assert OneThinker()(without)["iou"] == 0.0 and OneThinker(form="released")(without)["iou"] == 0.9


@pytest.mark.parametrize(
    "text",
    ["2 to 6", "[2, 6]", '{"time": [2]}', '{"time": [2, 6, 8]}', '{"time": [2, true]}', '{"time": "2 to 6"}', '{"time": [2, 6]',
     "{'time': [2, 6]}", "", "[" * 5000, '{"time": [1' + "0" * 400 + ", 2]}",
     '{"time": [1e999, 2]}'],
)  # fmt: skip
def test_what_is_no_structure(complete, text):
    assert read_time(text) is None
    assert OneThinker()(complete(TEXT.format(text))) == {"iou": 0.0, "format": 1.0, "structure": 0.0}


def test_strings_are_numbers_as_released(complete):
    text = complete(TEXT.format('{"time": ["2", "6"]}'))
    assert OneThinker()(text)["iou"] == 0.0 and OneThinker(form="released")(text)["iou"] == 0.9
    broken = complete(TEXT.format('{"time": [NaN, Infinity]}'))
    assert OneThinker()(broken) == {"iou": 0.0, "format": 1.0, "structure": 0.0}
    assert OneThinker(form="released")(broken) == {"iou": 0.0, "format": 0.1, "structure": 0.5}


def test_trap_white_space_in_tags(complete):
    spaced = complete('< think >a< / think >\n<answer> {"time": [2, 6]} </ answer >')
    assert OneThinker()(spaced) == {"iou": 0.0, "format": 0.0, "structure": 0.0}
    assert OneThinker(form="released")(spaced) == {"iou": 0.9, "format": 0.1, "structure": 0.5}
    far = complete(" " * 100_000 + TEXT.format("2 to 6"))
    assert OneThinker(form="released")(far) == {"iou": 0.0, "format": 0.1, "structure": 0.0}


@pytest.mark.parametrize(
    ("time", "iou"), [("[2, true]", 0.0), ("[true, 6]", 4 / 5), ("[false, 6]", 4 / 6), ("[null, 6]", None), ("[[2], 6]", None)]
)
def test_trap_true_is_a_number(complete, time, iou):
    completion = complete(TEXT.format(f'{{"time": {time}}}'))
    assert OneThinker()(completion) == {"iou": 0.0, "format": 1.0, "structure": 0.0}
    parts = OneThinker(form="released")(completion)
    assert parts == {"iou": pytest.approx(0.9 * (iou or 0.0)), "format": 0.1, "structure": 0.0 if iou is None else 0.5}


@pytest.mark.parametrize("form", ["published", "released"])
def test_answers_may_be_text(complete, form):
    reward, whole = OneThinker(form, "text"), OneThinker(form)
    assert reward(complete(TEXT.format("2.0s to 6.0s"))) == whole(complete(TEXT.format('{"time": [2, 6]}')))
    assert reward(complete(TEXT.format("from 9 to 12, no: 4 to 6"))) == whole(complete(TEXT.format('{"time": [4, 6]}')))
    assert reward(complete(TEXT.format("soon"))) == whole(complete(TEXT.format("soon")))
