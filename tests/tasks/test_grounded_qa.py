import pytest

from taro.data.samples import SampleError
from taro.tasks import NO_ANSWER, Answer, find_task

TASK = find_task("grounded_qa")
CHOICES = {"choices": ["to greet.", "to swat a fly"], "answer": "B"}
TRUTH = Answer(((2.0, 6.0),), "B")


def test_a_sample(loaded):
    sample = loaded(task="grounded_qa", query="why does he wave?", **CHOICES)
    assert TASK.subject(sample) == "why does he wave? A. to greet; B. to swat a fly"
    assert TASK.truth(sample) == Answer(((1.0, 2.0), (4.0, 6.0)), "B")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": None}, "choices: got nothing"),
        ({"choices": ["x"]}, r'choices: got \["x"\]; allowed: a list of 2 to 26 texts'),
        ({"choices": ["x"] * 27}, "choices: got"),
        ({"choices": ["x", 3]}, "choices"),
        ({"answer": None}, "answer: got nothing"),
        ({"answer": "C"}, 'answer: got "C"; allowed: the letter of a choice, A to B'),
        ({"answer": "b"}, 'answer: got "b"'),
        ({"answer": "AB"}, 'answer: got "AB"'),
        ({"answer": 1}, "answer: got 1"),
        ({"spans": []}, r"spans: got \[\]"),
    ],
)
def test_what_a_row_lacks(loaded, row, message):
    with pytest.raises(SampleError, match=message):
        loaded(task="grounded_qa", **CHOICES | row)


@pytest.mark.parametrize(
    ("text", "spans", "choice"),
    [
        ("B, 2.0s to 6.0s", ((2.0, 6.0),), "B"),
        ("(B) to swat a fly: 2 to 3, 5 to 6", ((2.0, 3.0), (5.0, 6.0)), "B"),
        ("A", None, "A"),
        ("2 to 6", ((2.0, 6.0),), None),
        ("none", (), None),
    ],
)
def test_a_letter_and_spans_are_read(text, spans, choice):
    assert TASK.read(f"<think>C</think><answer>{text}</answer>") == Answer(spans, choice)
    assert TASK.read(text) == NO_ANSWER


@pytest.mark.parametrize(
    ("answer", "accuracy", "iop", "both"),
    [
        (Answer(((2.0, 6.0),), "B"), 1.0, 1.0, 1.0),
        (Answer(((2.0, 3.0), (3.0, 6.0)), "A"), 0.0, 1.0, 0.0),  # touching
        (Answer(((2.0, 10.0), (3.0, 4.0)), "B"), 1.0, 0.5, 1.0),  # nested
        (Answer(((0.0, 10.0),), "B"), 1.0, 0.4, 0.0),
        (Answer(((6.0, 2.0),), "B"), 1.0, 0.0, 0.0),  # reversed
        (Answer((), "B"), 1.0, 0.0, 0.0),
        (Answer(None, "B"), 1.0, 0.0, 0.0),
        (NO_ANSWER, 0.0, 0.0, 0.0),
    ],
)
def test_scores(answer, accuracy, iop, both):
    assert TASK.scores(answer, TRUTH) == {"accuracy": accuracy, "IoP": iop, "accuracy_with_evidence": both}


def test_no_truth_and_no_letter_agree_on_nothing():
    assert TASK.scores(Answer(()), Answer(()))["accuracy"] == 0.0
