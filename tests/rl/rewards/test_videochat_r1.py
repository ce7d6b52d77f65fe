import pytest

from taro.rl.rewards.videochat_r1 import VideoChatR1, read_glue

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
