import pytest

from taro.rl.rewards.videochat_r1 import VideoChatR1, read_glue, read_glue_as_released

GROUNDING = "<think>a</think><answer>{}</answer>"
QUESTION = "<think>a</think><answer>{}</answer><glue>{}</glue>"


@pytest.mark.parametrize(
    ("glue", "spans"),
    [
        ("[(1, 2.5), (4, 6)]", [(1.0, 2.5), (4.0, 6.0)]),
        ("[(1, 2),]", [(1.0, 2.0)]),
        ("[]", []),
        ("[(2, 1)]", None),  # reversed
        ("[(1, 1)]", [(1.0, 1.0)]),
        ("[[1, 2]]", None),
        ("(1, 2)", None),
        ("[(1s, 2s)]", None),
    ],
)
def test_read_glue(glue, spans):
    assert read_glue(QUESTION.format("A", glue)) == spans


def test_grounding(complete):
    completion = complete(GROUNDING.format("4 to 8"))
    for form in ("published", "released"):
        assert VideoChatR1(form=form)(completion) == {"format": 1.0, "iou": pytest.approx(1 / 3)}
    unit = complete(GROUNDING.format("4s to 8s"))
    assert VideoChatR1()(unit)["iou"] > 0 and VideoChatR1(form="released")(unit)["iou"] == 0


def test_question(complete):
    def reward(letter, glue, form="published", truth=((0, 2), (1, 4))):
        return VideoChatR1(form=form)(complete(QUESTION.format(letter, glue), truth, "grounded_qa", answer="B"))

    assert reward("The answer is B.", "[(0, 2), (2, 4)]") == {"format": 1.0, "iou": 1.0, "answer": 1.0}
    assert reward("C", "[(0, 1)]") == {"format": 1.0, "iou": 0.25, "answer": 0.0}
    assert reward("no", "0 to 4") == {"format": 0.0, "iou": 0.0, "answer": 0.0}
    with pytest.raises(ValueError, match="needs the key 'answer'"):
        VideoChatR1()(complete(QUESTION.format("B", "[]"), (), "grounded_qa"))


@pytest.mark.parametrize(("glue", "truth", "published"), [("[(3, 3)]", [(5, 5)], 0.0), ("[(3, 3)]", [], 0.0), ("[]", [], 1.0)])
def test_trap_an_empty_union(complete, glue, truth, published):
    completion = complete(QUESTION.format("B", glue), truth, "grounded_qa", answer="B")
    assert VideoChatR1()(completion)["iou"] == published
    assert VideoChatR1(form="released")(completion)["iou"] == 1.0


@pytest.mark.parametrize(
    ("answer", "published", "released"),
    [
        ("B", 1.0, 1.0),
        ("The answer is B.", 1.0, 1.0),
        ("Dogs bark: B", 1.0, 0.0),  # trap: the D of a word
        ("Because of this", 0.0, 1.0),
        ("Best answer: C", 0.0, 1.0),
        ("Best answer:Best option: C", 0.0, 0.0),
        ("b", 0.0, 0.0),
        ("B</answer><answer>C", 0.0, 1.0),  # the first block
        ("", 0.0, 0.0),
    ],
)
def test_trap_the_choice_is_the_first_letter_of_all(complete, answer, published, released):
    completion = complete(QUESTION.format(answer, "[(2, 6)]"), [(2, 6)], "grounded_qa", answer="B")
    assert VideoChatR1()(completion)["answer"] == published
    assert VideoChatR1(form="released")(completion)["answer"] == released


@pytest.mark.parametrize("right", ["b", "B. a dog", "(B)"])
def test_the_right_choice_as_samples_have_it(complete, right):
    completion = complete(QUESTION.format("B", "[(2, 6)]"), [(2, 6)], "grounded_qa", answer=right)
    assert VideoChatR1(form="released")(completion)["answer"] == 1.0
    assert VideoChatR1(form="released")(complete("B", [(2, 6)], "grounded_qa", answer=right))["answer"] == 0.0


@pytest.mark.parametrize(
    ("glue", "readable"),
    [
        ("[(2, 6)]", True),
        ("[(2,  6.0),]", True),
        (" [(2, 6)] ", False),  # trap: nothing is stripped
        ("\n[(2, 6)]", False),
        ("[(2, 6)]\n", True),  # but a line's end may stand at the end
        ("[(02, 6)]", False),  # no number of Python
        ("[(02.0, 6)]", True),
        ("[(6, 2)]", False),
    ],
)
def test_trap_white_space_around_the_list(complete, glue, readable):
    text = QUESTION.format("B", glue)
    parts = VideoChatR1(form="released")(complete(text, [(2, 6)], "grounded_qa", answer="B"))
    assert parts == {"format": float(readable), "iou": float(readable), "answer": 1.0}
    assert (read_glue(text) is None) == (glue == "[(6, 2)]")


def test_what_the_released_reader_cant_read():
    for glue in ("[(1, 2)", "[[1, 2]]", "soon"):
        assert read_glue_as_released(QUESTION.format("B", glue)) is None
    assert read_glue_as_released("no block") is None


def test_the_released_truth_may_end_after_the_video(complete):
    completion = complete(QUESTION.format("B", "[(12, 20)]"), [(12, 20)], "grounded_qa", duration=16.0, answer="B")
    assert VideoChatR1(form="released")(completion)["iou"] == 1.0 and VideoChatR1()(completion)["iou"] == 0.5
