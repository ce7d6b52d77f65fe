from taro.data.samples import Sample
from taro.evaluation.beside import Beside, put_beside
from taro.evaluation.predictions import Prediction
from taro.evaluation.training_file import Fit


def pair(name, task="grounding"):
    sample = Sample(name, "a.mp4", "a dog", ((0.0, 5.0),), 10.0, task=task)
    return sample, Prediction.answered(sample, "<answer>0 to 5</answer>", True, 0.0)


def test_only_samples_that_ask_for_one_span_are_compared():
    samples, predictions = zip(pair("a"), pair("b", "actions"), pair("c"), strict=True)
    found = put_beside(samples, predictions)
    assert [row.counted for row in found.protocols] == [2] * len(found.protocols) and found.protocols[0].miou == 1
    assert found.blind[1].shares == (0.0, 0.5) and found.blind[1].miou == 1


def test_blind_answers_are_fitted_on_training_samples_too():
    samples, predictions = zip(pair("a"), pair("c"), strict=True)
    late = Sample("t", "t.mp4", "a dog", ((5.0, 10.0),), 10.0)
    plain, found = put_beside(samples, predictions), put_beside(samples, predictions, fit=Fit("train.jsonl", (late,)))
    assert (plain.fit, found.fit, found.blind[2:]) == (None, "train.jsonl", plain.blind)
    row = found.blind[1]
    assert (row.fitted, row.shares, row.miou) == ("training samples", (0.5, 1.0), 0)
    assert plain.blind[1].fitted == "these samples"


def test_nothing_stands_beside_other_tasks():
    samples, predictions = zip(pair("b", "actions"), strict=True)
    assert put_beside(samples, predictions) == Beside() == Beside((), ())


def test_a_rule_that_cuts_texts_cuts_these():
    samples, predictions = zip(pair("a"), strict=True)
    whole, cut = (put_beside(samples, predictions, one) for one in (None, lambda text, tokens: text[:tokens]))
    assert [row.cut for row in cut.protocols] == [row.protocol == "lmms_eval" for row in cut.protocols]
    assert not any(row.cut for row in whole.protocols)
