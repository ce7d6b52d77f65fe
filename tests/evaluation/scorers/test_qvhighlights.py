from taro.evaluation.scorers.qvhighlights import score, submission


def test_scores_and_what_is_handed_in(handed_in):
    first, second = ((0.0, 10.0),), ((20.0, 30.0),)
    right = handed_in((first, first), (second, second), task="grounding", extra=[{"vid": "v", "x": 1}, {}])
    assert submission(*right)[0] == {
        "qid": 0,
        "query": "a dog runs",
        "vid": "v",
        "pred_relevant_windows": [[0.0, 10.0, 1.0]],
    }
    assert score(*right, False)["MR-full-R1@0.7"] == score(*right, False)["MR-full-mAP"] == 100
    swapped = score(*handed_in((first, second), (second, first), task="grounding"), False)
    assert swapped["MR-full-R1@0.5"] == swapped["MR-full-mAP"] == 0
    half = handed_in((first, ((0.0, 5.0),)), (second, None), task="grounding")
    assert (score(*half, False)["MR-full-R1@0.5"], score(*half, True)["MR-full-R1@0.5"]) == (50, 0)
