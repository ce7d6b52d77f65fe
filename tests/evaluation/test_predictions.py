import json
from dataclasses import asdict

import pytest

from taro.data.samples import Sample
from taro.evaluation.predictions import (
    FAILURES,
    MISSING_VIDEO,
    EvaluationError,
    Prediction,
    count_failures,
    list_failures,
    load_predictions,
    read_predictions,
)
from taro.jsonl import ResumableFolder
from taro.messages import MISSING
from taro.rows import RowError, read_objects

SAMPLE = Sample("7", "v.mp4", "a man waves", ((2.0, 4.0), (8.0, 12.0)), 20.0)
GOOD = "<think>x</think><answer>8.0s to 11.0s</answer>"


def test_an_answer():
    prediction = Prediction.answered(SAMPLE, GOOD, True, 1.5)
    assert prediction.answer == (8.0, 11.0) and prediction.iou == 0.75  # with the span that fits best
    assert prediction.failure is None and prediction.reason is None and prediction.seconds == 1.5
    assert (prediction.id, prediction.query, prediction.spans) == ("7", "a man waves", SAMPLE.spans)


@pytest.mark.parametrize(("finished", "failure"), [(True, "no_answer"), (False, "cut_completion")])
def test_a_completion_without_an_answer(finished, failure):
    prediction = Prediction.answered(SAMPLE, "<think>" + 100 * "y", finished, 1.0)
    assert prediction.failure == failure and prediction.answer is None and prediction.iou == 0.0
    assert prediction.reason == f"{FAILURES[failure]}; it ends in '{60 * 'y'}'" and prediction.completion


def test_a_cut_completion_with_an_answer_is_none_that_failed():
    assert Prediction.answered(SAMPLE, GOOD, False, 1.0).failure is None


def test_a_reversed_answer_was_read():
    prediction = Prediction.answered(SAMPLE, "<answer>11.0s to 8.0s</answer>", True, 1.0)
    assert prediction.answer == (11.0, 8.0) and prediction.iou == 0.0 and prediction.failure is None


@pytest.mark.parametrize(
    "prediction", [Prediction.answered(SAMPLE, GOOD, True, 0.1), Prediction.failed(SAMPLE, MISSING_VIDEO, "gone")]
)
def test_rows_come_back(prediction):
    row = json.loads(json.dumps(asdict(prediction)))
    assert read_objects(Prediction, {"7": row}, "prediction") == {"7": prediction}


def test_predictions_of_another_task():
    """The default one's rows are as they were before there were others."""
    plain = Prediction.answered(SAMPLE, GOOD, True, 0.1)
    assert "task" not in plain.to_row() and list(read_predictions({"7": plain.to_row()}).values()) == [plain]
    before = {name: value for name, value in plain.to_row().items() if name != "tokens"}  # they were not counted
    assert list(read_predictions({"7": before}).values()) == [plain]
    absent = Sample("8", "v.mp4", "a man waves", (), 20.0, task="multi_span")
    refused = Prediction.answered(absent, "<answer>none</answer>", True, 0.1)
    assert refused.iou == 1.0 and refused.failure is None and refused.readable and refused.answer is None
    assert refused.scores["rightly_refused"] == 1.0 and Prediction.answered(absent, "no", True, 0.1).failure == "no_answer"
    choices = {"choices": ["x", "y"], "answer": "B"}
    question = Sample("9", "v.mp4", "why?", ((2.0, 4.0),), 20.0, task="grounded_qa", extra=choices)
    told = Prediction.answered(question, "<answer>B, 1.0s to 2.0s, 3.0s to 4.0s</answer>", True, 0.1)
    assert (told.right_choice, told.scores["accuracy"], told.answer, told.iou) == ("B", 1.0, (3.0, 4.0), pytest.approx(1 / 3))
    failed = Prediction.failed(question, MISSING_VIDEO, "gone")
    rows = {one.id: json.loads(json.dumps(one.to_row())) for one in (refused, told)}
    assert list(read_predictions(rows).values()) == [refused, told]
    assert failed.scores["accuracy"] == 0.0 and not failed.readable


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spans", MISSING, "spans: got nothing (the field is missing); allowed: [[start, end], ...] (seconds)"),
        ("iou", 1.5, "iou: got 1.5; allowed: a number from 0 to 1"),
        ("answer", [1], "answer: got [1]; allowed: null, or [start, end]"),
        ("spans", [[0, "1"]], 'spans[0]: got [0, "1"]; allowed: [start, end]'),
        ("other", 1, "other: got 1; allowed: no such field; there are id, query, spans,"),
    ],
)
def test_rows_of_another_kind(field, value, message):
    rows = {id: asdict(Prediction.failed(SAMPLE, MISSING_VIDEO, "gone")) for id in ("6", "7", "8")}
    rows["7"][field] = value
    rows["8"]["query"] = 3
    with pytest.raises(RowError) as error:
        read_objects(Prediction, rows, "prediction")
    head, first, second = str(error.value).splitlines()
    assert head == "2 of 3 rows can't be read:" and second.startswith('- prediction "8": query: got 3; allowed: text')
    assert first.startswith(f'- prediction "7": {message}')


def test_failures_are_counted_and_listed():
    predictions = [Prediction.answered(SAMPLE, GOOD, True, 1.0)]
    predictions += [Prediction.failed(SAMPLE, MISSING_VIDEO, f"gone {number}") for number in range(30)]
    assert count_failures(predictions) == dict.fromkeys(FAILURES, 0) | {"missing_video": 30}
    lines = list_failures(predictions, shown=3)
    assert lines == [*(f"missing_video: 7: gone {number}" for number in range(3)), "and 27 more"]
    assert list_failures(predictions[:2]) == ["missing_video: 7: gone 0"]


def test_a_finished_folder_is_loaded(tmp_path):
    predictions = [Prediction(str(number), "q", ((0.0, 1.0),)) for number in range(3)]
    folder = ResumableFolder(tmp_path, {"samples": {"count": 3, "digest": "x"}})
    folder.append(asdict(prediction) for prediction in predictions[:2])
    with pytest.raises(EvaluationError, match="has 2 of 3 predictions: finish it"):
        load_predictions(tmp_path)
    folder.append([asdict(predictions[2])])
    assert load_predictions(tmp_path) == predictions
    (folder,) = tmp_path.glob("*.jsonl")
    whole = folder.read_text()
    folder.write_text(whole + whole.splitlines(keepends=True)[1])
    with pytest.raises(EvaluationError, match=r"1 samples have more than one line in predictions\.jsonl(.|\n)*:\n- 1$"):
        load_predictions(tmp_path)
    folder.write_text(whole + whole.splitlines(keepends=True)[1].replace('"id": "1"', '"id": "other"'))
    with pytest.raises(EvaluationError, match="has 4 predictions of 3 samples: delete the lines that were added"):
        load_predictions(tmp_path)
    folder.write_text(whole)
    folder.write_text(folder.read_text().replace('"iou": 0.0, ', "", 1))
    with pytest.raises(RowError) as error:
        load_predictions(tmp_path)
    head, line, remedy = str(error.value).splitlines()
    assert head == f"{tmp_path}/predictions.jsonl: 1 of 3 rows can't be read:" and "makes them again" in remedy
    assert line.startswith('- prediction "0": iou: got nothing (the field is missing); allowed: a number from 0')


def test_what_is_no_evaluation(tmp_path):
    with pytest.raises(EvaluationError, match=r"config\.yaml: holds no settings \(.*No such file"):
        load_predictions(tmp_path / "nowhere")
    ResumableFolder(tmp_path, {"samples": 3})
    with pytest.raises(EvaluationError, match=r"its config\.yaml is not an evaluation's"):
        load_predictions(tmp_path)
