import pytest

from taro.data.samples import SampleError
from taro.prompts import DEFAULT_PROMPT, build_request
from taro.tasks import DEFAULT, Answer, find_task

TASK = find_task("grounding")


def test_the_request_is_the_template_alone(asked):
    sample = asked("grounding", query="A dog runs. ")
    assert DEFAULT == "grounding" and TASK.instruction == "" and TASK.subject(sample) == sample.query
    assert build_request(TASK.subject(sample), DEFAULT_PROMPT, TASK.instruction) == build_request(sample.query)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("<answer>1 to 2, 4.0s to 6s</answer>", ((4.0, 6.0),)),  # the last
        ("<answer>1 to 2 and 4</answer>", ((2.0, 4.0),)),
        ("<answer>6 to 4</answer>", ((6.0, 4.0),)),
        ("<answer>none</answer>", None),
        ("1 to 2", None),
    ],
)
def test_the_last_range_is_the_answer(text, spans):
    assert TASK.read(text) == Answer(spans)


@pytest.mark.parametrize(
    ("spans", "truth", "iou"),
    [
        ([(2, 6)], [(2, 6)], 1.0),
        ([(9, 11)], [(2, 6), (8, 12)], 0.5),  # the nearest
        ([(6, 2)], [(2, 6)], 0.0),  # reversed
        ([(6, 9)], [(2, 6)], 0.0),  # touching
        ([(3, 5)], [(2, 6)], 0.5),  # nested
        (None, [(2, 6)], 0.0),
        ([(2, 6)], [], 0.0),
    ],
)
def test_iou(said, spans, truth, iou):
    assert TASK.iou(said(spans), said(truth)) == iou


def test_without_a_span_there_is_no_sample(loaded):
    assert loaded(task=None).task == "grounding"
    with pytest.raises(SampleError, match=r"spans: got \[\]; allowed: \[\[start, end\], \.\.\.\], one or more"):
        loaded(spans=[])


def test_boundaries(asked):
    assert TASK.boundaries(asked("grounding", ((2, 6), (9, 12)))) == (2.0, 6.0, 9.0, 12.0)
