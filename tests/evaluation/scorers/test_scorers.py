from taro.evaluation.registry import load_benchmarks
from taro.evaluation.scorers import SCORERS, SUBMISSIONS

TRUTHS = [((0.0, 10.0),), ((20.0, 30.0), (40.0, 50.0))]


def test_every_scorer_is_that_of_a_benchmark():
    assert {benchmark.scorer for benchmark in load_benchmarks()} == {None, *SCORERS}
    assert set(SUBMISSIONS) <= set(SCORERS)


def test_all_samples_count_and_scores_are_percents(handed_in):
    for name, score in SCORERS.items():
        right, wrong = (handed_in(*((truth, answer) for truth in TRUTHS)) for answer in (None, "who knows?"))
        unasked, unread = score(*right, False), score(*wrong, False)
        assert str(unasked) == str(unread) and all(not value > 100 for value in unasked.values()), name
        assert score(*handed_in(*zip(TRUTHS, TRUTHS, strict=True)), False).keys() == unasked.keys()
