import pytest

from taro.data.samples import SampleError
from taro.tasks import NO_ANSWER, Answer, find_task

TASK = find_task("multiple_choice")
ROW = {"task": "multiple_choice", "query": "which way?", "choices": ["left.", "right"], "answer": "B", "spans": []}


def test_a_sample_without_spans(loaded):
    sample = loaded(**ROW)
    assert TASK.subject(sample) == "which way? A. left; B. right" and TASK.truth(sample) == Answer((), "B")
    assert TASK.boundaries(sample) == ()
    with pytest.raises(SampleError, match='answer: got "C"; allowed: the letter of a choice, A to B'):
        loaded(**ROW | {"answer": "C"})


@pytest.mark.parametrize(
    ("text", "letter"), [("B", "B"), ("(B) right", "B"), ("A, 1.0s to 2.0s", "A"), ("right", None), ("none", None), ("", None)]
)
def test_a_letter_is_read_and_nothing_else_is_an_answer(text, letter):
    answer = TASK.read(f"<think>C</think><answer>{text}</answer>")
    assert answer == (NO_ANSWER if letter is None else Answer((), letter))
    assert TASK.read(text) == NO_ANSWER
    right = float(letter == "B")
    assert TASK.iou(answer, Answer((), "B")) == right and TASK.scores(answer, Answer((), "B")) == {"accuracy": right}
