import pytest

from taro.data.samples import SampleError, load_samples, save_samples
from taro.tasks import find_task

TASK = find_task("dense")
QUERIES = ["a dog runs.", "a man sits"]


def test_a_sample(loaded, tmp_path):
    sample = loaded(task="dense", queries=QUERIES, query=None)
    assert sample.query == TASK.subject(sample) == "1. a dog runs; 2. a man sits"
    save_samples([sample], tmp_path / "again.jsonl")
    assert load_samples(tmp_path / "again.jsonl") == [sample]
    titled = loaded(task="dense", queries=QUERIES, query="both")
    assert titled.query == "both" and TASK.subject(titled) == "1. a dog runs; 2. a man sits"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"queries": ["x"]}, r'queries: got \["x"\]; allowed: one for each of the 2 spans'),
        ({"queries": ["x", "y"], "spans": []}, r"spans: got \[\]"),
        ({"queries": []}, r"queries: got \[\]; allowed: a list of texts"),
        ({"queries": ["x", " "]}, r'queries\[1\]: got " "'),
        ({"queries": "x", "query": None}, 'queries: got "x"'),
        ({}, "queries: got nothing"),
    ],
)
def test_what_a_row_lacks(loaded, row, message):
    with pytest.raises(SampleError, match=message):
        loaded(task="dense", **row)


@pytest.mark.parametrize(
    ("spans", "truth", "iou", "reached"),
    [
        ([(1, 2), (4, 6)], [(1, 2), (4, 6)], 1.0, 1.0),
        ([(4, 6), (1, 2)], [(1, 2), (4, 6)], 0.0, 0.0),  # the order is that of the queries
        ([(1, 2)], [(1, 2), (4, 6)], 0.5, 0.5),
        ([(1, 2), (4, 6), (7, 8)], [(1, 2), (4, 6)], 2 / 3, 1.0),
        ([(2, 1), (4, 6)], [(1, 2), (4, 6)], 0.5, 0.5),  # reversed
        ([(1, 4), (4, 6)], [(1, 2), (4, 6)], 2 / 3, 0.5),  # touching
        ([(0, 8), (4, 6)], [(1, 2), (4, 6)], 0.5625, 0.5),  # nested
        ([], [(1, 2)], 0.0, 0.0),
        (None, [(1, 2)], 0.0, 0.0),
        ([(1, 2)], [], 0.0, 0.0),
    ],
)
def test_pairs(said, spans, truth, iou, reached):
    scores = TASK.scores(said(spans), said(truth))
    assert TASK.iou(said(spans), said(truth)) == pytest.approx(iou) and scores["R@0.5"] == reached
    assert scores["count_accuracy"] == float(spans is not None and 0 < len(spans) == len(truth))
