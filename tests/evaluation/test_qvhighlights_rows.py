import math

import pytest

from taro.evaluation.qvhighlights import SubmissionError, make_submission, score_submission


def moments(*windows_and_truths):
    """A submission and its truth from (predicted windows, true windows) of each query."""
    pairs = list(enumerate(windows_and_truths))
    predictions = [{"qid": qid, "pred_relevant_windows": windows} for qid, (windows, _) in pairs]
    return predictions, [{"qid": qid, "relevant_windows": true} for qid, (_, true) in pairs]


def test_submission_from_predictions():
    _, truth = moments(([], [[0, 10]]), ([], [[20, 60]]), ([], [[0, 5]]), ([], [[0, 5]]))
    truth[0] |= {"query": "a", "vid": "v"}
    predictions = [
        {"id": "3", "answer": [5, 0], "failure": None},
        {"id": "1", "answer": [20, 60.0], "failure": None},
        {"id": "0", "answer": [0.5, 10.0], "failure": None},
        {"id": "2", "answer": None, "failure": "no such video"},
    ]
    submission = make_submission(predictions, truth)
    assert submission == [
        {"qid": 0, "query": "a", "vid": "v", "pred_relevant_windows": [[0.5, 10.0, 1.0]]},
        {"qid": 1, "pred_relevant_windows": [[20.0, 60.0, 1.0]]},
        {"qid": 2, "pred_relevant_windows": [[0.0, 0.0, 1.0]]},
        {"qid": 3, "pred_relevant_windows": [[0.0, 0.0, 1.0]]},
    ]
    assert score_submission(submission, truth)["MR-full-R1@0.7"] == 50.0


def test_bad_predictions_are_named():
    _, truth = moments(([], [[0, 10]]), ([], [[0, 10]]), ([], [[0, 10]]))
    predictions = [{"id": "0", "answer": [1]}, {"id": "1"}, {"id": "1", "answer": None}, {"id": "7", "answer": None}]
    with pytest.raises(SubmissionError) as error:
        make_submission(predictions, truth)
    for text in (
        'predictions, id "0": answer: got [1]; allowed: null, or [start, end]',
        'predictions, id "1": answer: got nothing (the field is missing)',
        'predictions, row 3: id: got "1" again; allowed: one row for each id',
        'id: got 1 in the truth alone: "2"; allowed: the same in predictions and truth',
        'id: got 1 in the predictions alone: "7"',
    ):
        assert text in str(error.value)


# ---- Bad rows ----

GOOD = {"pred_relevant_windows": [[0, 5, 1.0]], "pred_saliency_scores": [0.1, 0.2]}
GOOD_TRUTH = {
    "relevant_windows": [[0, 5]], "duration": 4, "relevant_clip_ids": [0, 1], "saliency_scores": [[4, 4, 4], [1, 2, 3]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pred_relevant_windows", [[0, 5, 1], [1, 2]], "[1]: got [1, 2]; allowed: [start, end, score], three finite numbers"),
        ("pred_relevant_windows", [[0, 5, math.nan]], "[0]: got [0, 5, NaN]; allowed: [start, end, score]"),
        ("pred_relevant_windows", [[0, 10**400, 1]], "[0]: got [0, 1000"),
        ("pred_relevant_windows", [["0", 5, 1]], '[0]: got ["0", 5, 1]; allowed: [start'),
        ("pred_relevant_windows", [[0, 5, True]], "[0]: got [0, 5, true]; allowed: [start"),
        ("pred_relevant_windows", None, ": got null; allowed: [[start, end, score], ...]"),
        ("pred_saliency_scores", [], ": got []; allowed: a list of finite numbers, one for each 2 seconds"),
        ("pred_saliency_scores", [1, None], ": got [1, null]; allowed: a list of finite numbers"),
        ("relevant_windows", [], ": got []; allowed: [[start, end], ...], one or more"),
        ("relevant_windows", [[0, 1], [5]], "[1]: got [5]; allowed: [start, end], two finite numbers"),
        ("duration", 1.9, ": got 1.9; allowed: a finite number from 2"),
        ("duration", math.inf, ": got Infinity; allowed: a finite number from 2"),
        ("relevant_clip_ids", [0, 2], ": got [0, 2]; allowed: a list of whole numbers from 0 to 1"),
        ("relevant_clip_ids", [0, -1], ": got [0, -1]; allowed: a list of whole numbers from 0 to 1"),
        ("relevant_clip_ids", [0, 0.5], ": got [0, 0.5]; allowed: a list of whole numbers"),
        ("relevant_clip_ids", [0], ""),  # and then saliency_scores is too long
        ("saliency_scores", [[1, 2, 3]], ": got [[1, 2, 3]]; allowed: a list with 3 ratings for each of the 2"),
        ("saliency_scores", [[1, 2, 3], [1, 2]], "[1]: got [1, 2]; allowed: 3 finite numbers"),
    ],
)
def test_bad_field(field, value, message):
    predictions, truth = [{"qid": 7} | GOOD], [{"qid": 7} | GOOD_TRUTH]
    score_submission(predictions, truth)
    source, rows = ("submission", predictions) if field in GOOD else ("truth", truth)
    rows[0][field] = value
    expected = f"{source}, qid 7: {field}{message}" if message else "saliency_scores: got [[4, 4, 4], [1, 2, 3]]; allowed"
    with pytest.raises(SubmissionError) as error:
        score_submission(predictions, truth)
    assert expected in str(error.value)


@pytest.mark.parametrize("field", [*GOOD, *GOOD_TRUTH])
def test_missing_field(field):
    predictions, truth = [{"qid": "q"} | GOOD, {"qid": "r"} | GOOD], [{"qid": "q"} | GOOD_TRUTH, {"qid": "r"} | GOOD_TRUTH]
    del (predictions if field in GOOD else truth)[1][field]
    with pytest.raises(SubmissionError, match=rf'qid "r": {field}: got nothing \(the field is missing\); allowed: '):
        score_submission(predictions, truth)


@pytest.mark.parametrize(
    ("predictions", "truth", "message"),
    [
        ([], [], "submission: got no rows"),
        ([{"qid": 1}], [{"qid": 1}], "no row has pred_relevant_windows or pred_saliency_scores"),
        ([{"qid": "1"} | GOOD], [{"qid": 1} | GOOD_TRUTH], "qid: got 1 in the truth alone: 1; allowed: the same"),
        ([{"qid": "1"} | GOOD], [{"qid": 1} | GOOD_TRUTH], 'qid: got 1 in the submission alone: "1"; allowed: the same'),
        ([{"qid": 1} | GOOD] * 2, [{"qid": 1} | GOOD_TRUTH], "submission, row 2: qid: got 1 again"),
        ([{"qid": 1} | GOOD], [{"qid": 1} | GOOD_TRUTH] * 2, "truth, row 2: qid: got 1 again"),
        ([{"qid": None} | GOOD], [{"qid": 1} | GOOD_TRUTH], "row 1: qid: got null; allowed: a whole number or text"),
        ([[1, 2]], [{"qid": 1} | GOOD_TRUTH], "submission, row 1: got [1, 2]; allowed: an object"),
    ],
)
def test_bad_rows(predictions, truth, message):
    with pytest.raises(SubmissionError) as error:
        score_submission(predictions, truth)
    assert message in str(error.value)


def test_all_faults_at_once():
    predictions, truth = moments(*[([[0, 1]], [[0, 1]])] * 23)
    with pytest.raises(SubmissionError) as error:
        score_submission(predictions, truth)
    lines = str(error.value).splitlines()
    assert len(lines) == 22 and lines[0].startswith("23 faults") and "qid 19:" in lines[20] and "and 3 more" in lines[21]
