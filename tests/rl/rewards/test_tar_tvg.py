import pytest

from taro.rl.rewards.tar_tvg import TarTvg, anchor_reward, anchors, soft_iou
from taro.spans import temporal_iou


@pytest.mark.parametrize(
    ("span", "value"),
    [
        ((2.0, 6.0), 1.0),
        ((4.0, 8.0), 2 / 6),
        ((6.0, 8.0), 0.0),  # touching
        ((8.0, 10.0), -2 / 8),  # below 0 where they are apart
        ((12.0, 14.0), -6 / 12),
        ((3.0, 4.0), 0.25),
        ((6.0, 2.0), -1.0),
        ((3.0, 3.0), -1.0),
        (None, -1.0),
    ],
)
def test_soft_iou(span, value):
    assert soft_iou(span, (2.0, 6.0)) == pytest.approx(value)
    assert max(0.0, value) == pytest.approx(temporal_iou(span, (2.0, 6.0)))


FAR, NEAR, RIGHT = (12.0, 14.0), (3.0, 8.0), (2.0, 6.0)


@pytest.mark.parametrize(
    ("spans", "reward"),
    [
        ([], 0.0),
        ([FAR], 1.0),
        ([FAR, RIGHT], 1.0),
        ([RIGHT, FAR], 1 / 3),
        ([FAR, NEAR, RIGHT], 1.0),
        ([FAR, RIGHT, NEAR], (1 + 2) / 6),
        ([NEAR, FAR, RIGHT], (1 + 3) / 6),
        ([RIGHT, RIGHT], 1 / 3),  # it must get better
        ([(6.0, 2.0), RIGHT], 2 / 3),
    ],
)
def test_later_anchors_count_more(spans, reward):
    assert anchor_reward(spans, (2.0, 6.0)) == pytest.approx(reward)


TEXT = "<think>first <timestamp>3.0 to 8.0</timestamp> or {}</think><answer>2.0 to 6.0</answer>"


def test_anchors_are_those_of_the_reasoning(complete):
    assert anchors(TEXT.format("") + "<timestamp>1 to 2</timestamp>") == [(3.0, 8.0)]
    assert anchors(TEXT.format("<timestamp>soon</timestamp><timestamp>\n2.0s - 6.0s\n</timestamp>")) == [(3.0, 8.0), (2.0, 6.0)]
    two = complete(TEXT.format("<timestamp>2.0 to 6.0</timestamp>"))
    assert TarTvg()(two) == {"format": 1.0, "soft_iou": 1.0, "anchors": 1.0}
    one = complete(TEXT.format(""))
    assert TarTvg()(one)["anchors"] == 0.0 and TarTvg(count=None)(one)["anchors"] == 1.0
    assert TarTvg()(complete(TEXT.format(""), truth=())) == {"format": 1.0, "soft_iou": -1.0, "anchors": 0.0}
