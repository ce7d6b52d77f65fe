import numpy as np
import pytest

from taro.view.evaluated import read_evaluation
from taro.view.statistics import THRESHOLDS, count_ious, measure


def test_the_histogram_counts_zero_and_tenths_up_to_their_end():
    ious = np.array([0.0, 0.0, 0.05, 0.1, 0.1001, 0.3, 0.1 + 0.2, 0.95, 1.0])
    assert count_ious(ious) == (2, 2, 1, 2, 0, 0, 0, 0, 0, 0, 2)


@pytest.mark.parametrize("strict", [False, True])
def test_metrics_recall_and_groups(write_evaluation, strict):
    found = measure(read_evaluation(write_evaluation()), strict)
    assert found.summary.samples == 30 and found.summary.metrics["mIoU"] == pytest.approx(found.ious.mean())
    for level, share in zip(THRESHOLDS, found.recall, strict=True):
        assert share == pytest.approx(np.mean([iou > level if strict else iou >= level for iou in found.ious]))
    assert {name: sum(one.samples for one in group.values()) for name, group in found.groups.items()} == {
        "position": 30,
        "video_length": 30,
        "moment_length": 30,
    }
    assert list(found.groups["position"]) == ["0-20 %", "20-40 %", "40-60 %", "60-80 %", "80-100 %"]
    assert found.groups["position"]["0-20 %"].samples == 3  # middles at 2.5, 3, 3.5 s of 20


def test_groups_that_are_not_known_are_left_out(write_evaluation, tmp_path):
    folder = write_evaluation()
    (tmp_path / "samples.jsonl").unlink()
    assert set(measure(read_evaluation(folder), False).groups) == {"moment_length"}
