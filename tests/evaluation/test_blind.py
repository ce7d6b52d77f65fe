import json
import math
import random
from pathlib import Path

import pytest

from taro.data.samples import Sample, save_samples
from taro.evaluation.blind import OWN, TRAINING, blind_rows, main
from taro.spans import temporal_iou

ANNOTATIONS = Path(__file__).parents[3] / "shared" / "annotations"


def sample(number, duration, *spans):
    return Sample(str(number), "a.mp4", "a dog runs", spans, duration)


def random_samples(count, seed=0):
    rng = random.Random(seed)
    samples = []
    for number in range(count):
        duration = rng.uniform(5, 60)
        ends = [sorted(rng.uniform(0, duration) for _ in range(2)) for _ in range(rng.randint(1, 3))]
        samples.append(sample(number, duration, *map(tuple, ends)))
    return samples


def by_name(rows):
    return {row.name: row for row in rows}


def constant(samples, start, end):
    """IoU of each with the same share of every video, the slow way."""
    spans = ((start * one.duration, end * one.duration) for one in samples)
    return [max(temporal_iou(span, truth) for truth in one.spans) for span, one in zip(spans, samples, strict=True)]


def share(ious, level):
    return sum(iou >= level for iou in ious) / len(ious)


@pytest.mark.parametrize("fit", [None, random_samples(12, seed=1)])
def test_constants_are_the_best_of_the_grid_where_they_are_fitted(fit):
    samples = random_samples(30)
    every = blind_rows(samples, fit)
    assert [row.fitted for row in every if row.fitted] == [*([TRAINING] * 2 if fit else []), OWN, OWN]
    rows = by_name(row for row in every if row.fitted == (TRAINING if fit else OWN))
    grid = [(a / 20, b / 20) for a in range(20) for b in range(a + 1, 21)]
    fitted = {shares: constant(fit or samples, *shares) for shares in grid}
    for name, worth in (
        ("best constant by R1@0.5", lambda ious: share(ious, 0.5)),
        ("best constant by mIoU", lambda ious: sum(ious) / len(ious)),
    ):
        row = rows[name]
        assert worth(fitted[row.shares]) == pytest.approx(max(map(worth, fitted.values())))
        ious = constant(samples, *row.shares)
        assert row.r1 == pytest.approx([share(ious, level) for level in (0.3, 0.5, 0.7)])
        assert row.miou == pytest.approx(sum(ious) / len(ious))


def test_the_other_rows():
    rows = by_name(blind_rows([sample(0, 10.0, (2.4, 6.0)), sample(1, 10.0, (0.0, 10.0))]))
    assert rows["the whole video"].miou == pytest.approx((0.36 + 1) / 2)
    assert rows["truth, rounded to seconds"].miou == pytest.approx((3.6 / 4 + 1) / 2)
    even = by_name(blind_rows([sample(number, 10.0, (0.0, 10.0)) for number in range(500)]))["a random span"]
    assert even.miou == pytest.approx(1 / 3, abs=0.01)  # the mean distance of two points


def test_what_has_no_duration_or_no_truth_scores_nothing():
    rows = blind_rows([sample(0, math.nan, (2.0, 6.0)), sample(1, 10.0)])
    assert [row.miou for row in rows] == pytest.approx([0, 0, 0, 0, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "by_r1", "by_miou", "rounded"),
    [
        ("charades_sta_test", (40.3, 30.6, 15.2, 28.1), (48.8, 27.5, 11.9, 30.5), 93.8),
        ("qvhighlights_val", (24.5, 15.7, 8.2, 17.8), (20.6, 9.4, 6.0, 23.9), 100.0),
    ],
)
def test_real_sets(file, by_r1, by_miou, rounded, capsys):
    """Figures that were found by another program."""
    path = ANNOTATIONS / f"{file}.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    rows = by_name(main([str(path)]))
    for name, expected in (("best constant by R1@0.5", by_r1), ("best constant by mIoU", by_miou)):
        assert [round(100 * value, 1) for value in (*rows[name].r1, rows[name].miou)] == list(expected)
    assert round(100 * rows["truth, rounded to seconds"].miou, 1) == rounded
    assert "an upper bound" in capsys.readouterr().out


def test_the_command_writes_json_and_names_what_was_fitted_on(tmp_path, capsys):
    for name, seed in (("test", 0), ("train", 1)):
        save_samples(random_samples(5, seed), tmp_path / f"{name}.jsonl")
    rows = main([f"{tmp_path}/test.jsonl", f"--fit={tmp_path}/train.jsonl", f"--json={tmp_path}/rows.json"])
    shown = capsys.readouterr().out
    assert f"Training samples are those of {tmp_path}/train.jsonl" in shown and "training" in shown.split("2 to")[0]
    assert [row["miou"] for row in json.loads((tmp_path / "rows.json").read_text())] == [row.miou for row in rows]
