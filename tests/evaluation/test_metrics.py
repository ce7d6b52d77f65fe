import math
import random

import pytest
import torch

from taro.data.samples import Sample
from taro.evaluation.metrics import GroundingMetrics, TaskMetrics, temporal_iou
from taro.prompts import parse_answer

GOOD = "<think>From 1.0s to 2.0s, x.</think><answer>1.0s to 2.0s</answer>"
SILENT = "<think>no times</think><answer>1.0s to 2.0s</answer>"
BROKEN = "at 3.0s"


@pytest.mark.parametrize(
    ("span", "truth", "iou"),
    [
        ((1.0, 3.0), (1.0, 3.0), 1.0),
        ((0.0, 7.0), (0.0, 10.0), 0.7),
        ((0.0, 2.0), (1.0, 3.0), 1 / 3),
        ((0.0, 9.0), (3.0, 6.0), 1 / 3),
        ((0.0, 1.0), (1.0, 2.0), 0.0),
        ((0.0, 1.0), (5.0, 6.0), 0.0),
        ((3.0, 1.0), (1.0, 3.0), 0.0),
        ((2.0, 2.0), (1.0, 3.0), 0.0),
        ((1.0, 3.0), (2.0, 2.0), 0.0),
        ((2.0, 2.0), (2.0, 2.0), 0.0),
        ((1.0, 3.0), (3.0, 1.0), 0.0),
        ((3.0, 1.0), (3.0, 1.0), 0.0),
        ((0.0, math.inf), (1.0, 3.0), 0.0),
        ((math.nan, 3.0), (1.0, 3.0), 0.0),
        (None, (1.0, 3.0), 0.0),
    ],
)
def test_temporal_iou(span, truth, iou):
    assert temporal_iou(span, truth) == pytest.approx(iou)


def test_temporal_iou_matches_counting_cells():
    rng = random.Random(0)
    for _ in range(300):
        a, b, c, d = (rng.randrange(15) for _ in range(4))
        span, truth = set(range(a, b)), set(range(c, d))  # empty when reversed
        expected = len(span & truth) / len(span | truth) if span and truth else 0.0
        assert temporal_iou((a, b), (c, d)) == pytest.approx(expected)


def test_metrics_by_hand():
    metrics = GroundingMetrics()
    metrics.update(
        spans=[(0.0, 7.0), (0.0, 4.0), None, (5.0, 1.0)],
        truths=[[(0.0, 10.0)], [(20.0, 30.0), (0.0, 8.0)], [(0.0, 1.0)], [(1.0, 5.0)]],
        texts=[GOOD, GOOD, BROKEN, SILENT],
        failed=4,
    )
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert values == pytest.approx(
        {
            "mIoU": (0.7 + 0.5) / 8,
            "R1@0.3": 2 / 8,
            "R1@0.5": 2 / 8,
            "R1@0.7": 1 / 8,
            "parse_rate": 3 / 8,
            "timestamp_rate": 2 / 8,
            "format_rate": 3 / 8,
            "failed": 4,
            "samples": 8,
        }
    )


def test_a_failed_sample_costs_as_much_as_a_wrong_one():
    failed, wrong = GroundingMetrics(), GroundingMetrics()
    failed.update([(1.0, 2.0)], [[(1.0, 2.0)]], [GOOD], failed=1)
    wrong.update([(1.0, 2.0), None], [[(1.0, 2.0)], [(1.0, 2.0)]], [GOOD, ""])
    failed, wrong = failed.compute(), wrong.compute()
    assert failed.pop("failed") == 1 and wrong.pop("failed") == 0
    assert failed == wrong
    assert failed["mIoU"] == failed["timestamp_rate"] == 0.5


def random_updates(count):
    rng = random.Random(0)
    for _ in range(count):
        size = rng.randrange(4)
        spans = [None if rng.random() < 0.2 else tuple(rng.sample(range(30), 2)) for _ in range(size)]
        truths = [[tuple(sorted(rng.sample(range(30), 2))) for _ in range(rng.randint(1, 3))] for _ in range(size)]
        yield spans, truths, [rng.choice([GOOD, SILENT, BROKEN]) for _ in range(size)], rng.randrange(2)


def test_metrics_match_the_slow_version():
    metrics, ious, texts, failed = GroundingMetrics(), [], [], 0
    parsed = 0
    for spans, truths, new_texts, new_failed in random_updates(40):
        metrics.update(spans, truths, new_texts, new_failed)
        ious += [max(temporal_iou(span, truth) for truth in row) for span, row in zip(spans, truths, strict=True)]
        texts += new_texts
        parsed += sum(span is not None for span in spans)
        failed += new_failed
    samples = len(ious) + failed
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert values == pytest.approx(
        {
            "mIoU": sum(ious) / samples,
            **{f"R1@{level}": sum(iou >= level for iou in ious) / samples for level in (0.3, 0.5, 0.7)},
            "parse_rate": parsed / samples,
            "timestamp_rate": texts.count(GOOD) / samples,
            "format_rate": (len(texts) - texts.count(BROKEN)) / samples,
            "failed": failed,
            "samples": samples,
        }
    )


def test_ranks_add_up(monkeypatch):
    updates = list(random_updates(10))
    whole, ranks = GroundingMetrics(), [GroundingMetrics(), GroundingMetrics()]
    for index, update in enumerate(updates):
        whole.update(*update)
        ranks[index % 2].update(*update)
    states = [{name: rank._copy_state_dict()[name] for name in rank._defaults} for rank in ranks]
    reduced = ranks[0]
    for name in reduced._defaults:
        reduction = reduced._reductions[name]
        setattr(reduced, name, reduction(torch.stack([state[name] for state in states])))
    torch.testing.assert_close(reduced.compute(), whole.compute())


def test_reset_forgets():
    metrics = GroundingMetrics()
    metrics.update([(0.0, 1.0)], [[(0.0, 1.0)]], [GOOD], failed=2)
    metrics.reset()
    metrics.update([None], [[(0.0, 1.0)]])
    values = metrics.compute()
    assert (values["samples"], values["failed"], values["mIoU"]) == (1, 0, 0.0)


def test_sums_are_kept_in_double_precision():
    metrics = GroundingMetrics()
    metrics.update([(0.0, 1.0)], [[(0.0, 3.0)]])
    assert metrics.compute()["mIoU"].item() == 1 / 3


def test_rates_without_anything_to_rate_are_nan():
    metrics = GroundingMetrics()
    metrics.update([(0.0, 1.0)], [[(0.0, 1.0)]])
    values = metrics.compute()
    assert values["mIoU"] == 1.0
    assert values["timestamp_rate"].isnan() and values["format_rate"].isnan()
    empty = GroundingMetrics()
    empty.update([], [])
    assert empty.compute()["mIoU"].isnan()


def test_errors_say_what_does_not_fit():
    metrics = GroundingMetrics()
    with pytest.raises(ValueError, match="got 2 spans, 1 truths and no texts"):
        metrics.update([None, None], [[(0.0, 1.0)]])
    with pytest.raises(ValueError, match="got 1 spans, 1 truths and 0 texts"):
        metrics.update([None], [[(0.0, 1.0)]], [])
    with pytest.raises(ValueError, match="sample 1 has no true span"):
        metrics.update([None, None], [[(0.0, 1.0)], []])


@pytest.mark.parametrize(("strict", "hit"), [(False, 1.0), (True, 0.0)])
def test_strict_levels_are_exclusive(strict, hit):
    metrics = GroundingMetrics(strict=strict)
    metrics.update([(0.0, 7.0), (0.0, 8.0)], [[(0.0, 10.0)]] * 2)
    values = metrics.compute()
    assert values["R1@0.7"] == (1 + hit) / 2 and values["R1@0.5"] == 1.0


def sample_of(task, spans=((1.0, 2.0),)):
    return Sample("x", "v.mp4", "q", spans, 10.0, task=task)


def test_metrics_of_one_task_are_those_of_grounding():
    texts, truths = [GOOD, SILENT, BROKEN, None], [((0.0, 2.0),), ((5.0, 6.0), (1.0, 2.5)), ((3.0, 4.0),), ((0.0, 1.0),)]
    plain, by_task = GroundingMetrics(), TaskMetrics()
    plain.update([parse_answer(text) for text in texts[:3]], truths[:3], texts[:3], failed=1)
    by_task.update([sample_of("grounding", spans) for spans in truths], texts)
    expected, found = plain.compute(), by_task.compute()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_metrics_by_task():
    metrics = TaskMetrics()
    metrics.update([sample_of("grounding"), sample_of("multi_span", ()), sample_of("multi_span")], [GOOD, GOOD, None])
    metrics.update([sample_of("multi_span", ())], ["<answer>none</answer>"])
    values = {name: value.item() for name, value in metrics.compute().items()}
    assert (values["mIoU"], values["samples"], values["failed"]) == (0.5, 4, 1)
    assert values["grounding/mIoU"] == 1.0 and values["grounding/format_rate"] == 1.0
    assert values["multi_span/mIoU"] == pytest.approx(1 / 3) and values["multi_span/parse_rate"] == pytest.approx(2 / 3)
    assert values["multi_span/refusal_precision"] == 1.0 and values["multi_span/refusal_recall"] == 0.5
    assert values["multi_span/refusal_joint"] == 0.0 and not any(name.startswith("dense/") for name in values)


def test_states_of_ranks_add_up():
    ranks, whole = [TaskMetrics(), TaskMetrics()], TaskMetrics()
    samples, texts = [sample_of("grounding"), sample_of("actions")], [GOOD, SILENT]
    whole.update(samples, texts)
    for metrics, sample, text in zip(ranks, samples, texts, strict=True):
        metrics.update([sample], [text])
    for name in ("sums", "texts", "failed", "samples", "task_sums", "task_samples"):  # what torchmetrics reduces
        setattr(ranks[0], name, getattr(ranks[0], name) + getattr(ranks[1], name))
    assert ranks[0].compute() == whole.compute()
