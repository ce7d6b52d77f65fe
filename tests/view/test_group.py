from types import SimpleNamespace

import torch

from taro.data.samples import Sample
from taro.view.group import group_timeline


def test_a_group_from_the_best_to_the_worst():
    sample = Sample("x", "v.mp4", "q", ((1.0, 3.0),), 10.0)
    group = SimpleNamespace(
        example=SimpleNamespace(sample=sample), texts=("ab", "cde"), token_spans=([(0, 2)], [(0, 1), (1, 3)])
    )
    rewards = SimpleNamespace(total=torch.tensor([0.5, 2.0]), spans=(None, (1.0, 2.0)))
    log_probs = torch.tensor([[-1.0, float("nan")], [-1.0, -2.0]])
    timeline = group_timeline(group, rewards, 4.0, log_probs, log_probs - 1)
    best, worst = timeline.tracks
    assert (best.text, best.span, best.score, best.note) == ("cde", (1.0, 2.0), 0.5, "reward 2.00")
    assert [(token.gap, token.start, token.end) for token in best.gaps] == [(1.0, 0, 1), (1.0, 1, 3)]
    assert (worst.label, worst.span, len(worst.gaps)) == ("#2", None, 1)
    assert not group_timeline(group, rewards, 4.0).tracks[0].gaps
    assert [track.score for track in group_timeline(group, rewards, -1.0).tracks] == [0.0, 0.0]
