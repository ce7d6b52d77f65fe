import json
import math
import re

import numpy as np
import pytest

from taro.data.samples import Sample
from taro.evaluation.metrics import GroundingMetrics
from taro.evaluation.predictions import MISSING_VIDEO, Prediction
from taro.evaluation.report import group_samples, make_report, print_report, summarise
from taro.evaluation.scores import METRICS

TRUTH = ((2.0, 6.0), (10.0, 12.0))
ANSWERS = (
    "<think>At 3s.</think><answer>2.0s to 6.0s</answer>",
    "<think>no</think><answer>10.0s to 13.0s</answer>",
    "no",
)


def sample(number, duration=20.0, spans=TRUTH, **extra):
    return Sample(str(number), f"{number}.mp4", "q", spans, duration, extra=extra)


SAMPLES = [sample(number) for number in range(4)]
PREDICTIONS = [
    *(Prediction.answered(row, text, True, 0.5) for row, text in zip(SAMPLES, ANSWERS, strict=False)),
    Prediction.failed(SAMPLES[3], MISSING_VIDEO, "gone"),
]


def test_metrics_of_known_answers():
    report = make_report(SAMPLES, PREDICTIONS)
    assert report.metrics == pytest.approx(
        {
            "mIoU": (1 + 2 / 3) / 4,
            "R1@0.3": 0.5,
            "R1@0.5": 0.5,
            "R1@0.7": 0.25,
            "parse_rate": 0.5,
            "timestamp_rate": 0.25,
            "format_rate": 0.5,
        }
    )
    assert (report.samples, report.failed, report.seconds) == (4, 1, 1.5)
    assert {kind: count for kind, count in report.failures.items() if count} == {"missing_video": 1, "no_answer": 1}


def test_they_are_those_of_the_training_loop():
    metrics = GroundingMetrics()
    answered = PREDICTIONS[:3]
    metrics.update([row.answer for row in answered], [row.spans for row in answered], ANSWERS, failed=1)
    values = {name: float(value) for name, value in metrics.compute().items()}
    report = make_report(SAMPLES, PREDICTIONS)
    assert values == pytest.approx(report.metrics | {"failed": report.failed, "samples": report.samples})


def test_strict_leaves_the_levels_themselves_out():
    row = Sample("0", "v.mp4", "q", ((0.0, 10.0),), 20.0)
    prediction = Prediction.answered(row, "<answer>0.0s to 7.0s</answer>", True, 0.0)
    assert make_report([row], [prediction]).metrics["R1@0.7"] == 1.0
    report = make_report([row], [prediction], strict=True)
    assert [report.metrics[name] for name in ("R1@0.5", "R1@0.7")] == [1.0, 0.0] and report.strict


def test_intervals_hold_the_values():
    generator = np.random.default_rng(0)
    summary = summarise(generator.random((200, len(METRICS))), resamples=500)
    for name, value in summary.metrics.items():
        low, high = summary.intervals[name]
        assert value - 0.06 < low < value < high < value + 0.06


def test_groups_by_keys_and_lengths():
    samples = [
        sample(0, 29.9, ((0.0, 4.0),), kind="b"),
        sample(1, 30.0, ((0.0, 5.0),), kind="a"),
        sample(2, 300.0, ((0.0, 12.0), (20.0, 30.0)), kind="b"),
        sample(3, 119.0, ((0.0, 60.0),)),
        sample(4, 500.0, ((3.0, 3.0),)),
    ]
    assert group_samples(samples, ["kind", "nobody"]) == {
        "kind": {"a": [1], "b": [0, 2]},
        "video_length": {"0-30 s": [0], "30-60 s": [1], "60-120 s": [3], "300+ s": [2, 4]},
        "moment_length": {"0-5 s": [0, 4], "5-10 s": [1], "10-30 s": [2], "60+ s": [3]},
    }
    groups = group_samples(samples, ["kind"])
    assert list(groups["kind"]) == ["a", "b"] and list(groups["video_length"])[-1] == "300+ s"
    assert list(groups["moment_length"]) == ["0-5 s", "5-10 s", "10-30 s", "60+ s"]


def test_breakdowns_are_the_metrics_of_their_samples():
    samples = [sample(number, kind="xy"[number % 2]) for number in range(4)]
    report = make_report(samples, PREDICTIONS, ["kind"])
    x, y = report.breakdowns["kind"]["x"], report.breakdowns["kind"]["y"]
    assert x.samples == y.samples == 2
    assert x.metrics["mIoU"] == 0.5 and y.metrics["mIoU"] == pytest.approx(1 / 3)
    assert report.breakdowns["video_length"]["0-30 s"].metrics == report.metrics


def test_a_shard_without_samples_has_no_metrics(capsys):
    report = make_report([], [])
    assert report.samples == 0 and all(math.isnan(value) for value in report.metrics.values()) and report.breakdowns == {}
    print_report(report, [], 4)
    assert "so far: 4 were asked for" in capsys.readouterr().out


def test_json_has_no_nan():
    report = make_report(SAMPLES, PREDICTIONS, official={"MR-long-mAP": math.nan, "MR-full-mAP": 12.5})
    stored = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert stored["official"] == {"MR-long-mAP": None, "MR-full-mAP": 12.5}
    assert stored["breakdowns"]["moment_length"]["0-5 s"]["samples"] == 4
    assert stored["bootstrap"] == {"resamples": 1000, "seed": 0, "coverage": 0.95}


def test_what_is_printed(capsys):
    report = make_report(SAMPLES, PREDICTIONS, strict=True, official={"MR-full-mAP": 12.5})
    print_report(report, PREDICTIONS, 6)
    shown = capsys.readouterr().out
    for text in ("0.417", "R1@0.5 (IoU > 0.5)", "12.50", "4 samples, 1 of them could not be asked", "missing_video: 3: gone"):
        assert text in shown
    assert "so far: 6 were asked for, other shards have the rest" in shown
    print_report(make_report(SAMPLES, PREDICTIONS), PREDICTIONS, 4)
    assert "so far" not in capsys.readouterr().out


def test_tasks_have_metrics_of_their_own(capsys):
    absent = Sample("a", "v.mp4", "q", (), 20.0, task="multi_span")
    plain = make_report(SAMPLES, PREDICTIONS)
    assert plain.tasks == {} and "tasks" not in plain.to_json() and "task" not in plain.breakdowns
    predictions = [*PREDICTIONS, Prediction.answered(absent, "<answer>none</answer>", True, 0.5)]
    report = make_report([*SAMPLES, absent], predictions)
    assert report.metrics["mIoU"] == pytest.approx((1 + 2 / 3 + 1) / 5)
    by_task = report.breakdowns["task"]
    assert by_task["grounding"].metrics == plain.metrics and by_task["multi_span"].metrics["mIoU"] == 1.0
    assert sum(one.samples for one in report.breakdowns["moment_length"].values()) == 4  # it has no moment
    assert report.tasks["multi_span"]["refusal_recall"] == 1.0
    assert report.to_json()["tasks"]["multi_span"]["refusal_joint"] is None  # no event that occurs was asked for
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["tasks"]
    print_report(report, predictions, 5)
    shown = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines() if line.count("│") == 6]
    assert {row[1]: row[2:4] for row in table if row[1]} == {"grounding": ["4", "0.417"], "multi_span": ["1", "1.000"]}
    assert "refusal_recall 1.000" in " ".join(row[5] for row in table)
    print_report(make_report([absent], predictions[-1:]), predictions[-1:], 1)
    assert re.search("refusal_recall +│ 1.000", capsys.readouterr().out)
