import random
from dataclasses import asdict

import pytest

from taro.data.samples import Sample
from taro.evaluation.compare import compare_runs, main
from taro.evaluation.predictions import EvaluationError, Prediction
from taro.jsonl import ResumableFolder

CONFIG = {"model": "base", "model_files": {"a.safetensors": "x"}, "engine": "native", "grounding": {"video": {"fps": 2.0}}}


def answer_to(sample, end):
    return Prediction.answered(sample, f"<think>At 3s.</think><answer>0.0s to {end:.2f}s</answer>", True, 0.1)


def write_run(folder, predictions, shards=1, **config):
    count = {"count": len(predictions), "digest": "d"}
    ResumableFolder(folder, {**CONFIG, **config, "samples": count}).append(asdict(row) for row in predictions)
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    """200 samples; the second run's ends are nearer to the truth in most of them, and its rows are in another order."""
    rng = random.Random(0)
    samples = [Sample(str(number), "v.mp4", f"q{number}", ((0.0, 10.0),), 20.0) for number in range(200)]
    first = [answer_to(sample, rng.uniform(2.0, 10.0)) for sample in samples]
    pairs = zip(samples, first, strict=True)
    second = [answer_to(sample, min(10.0, row.answer[1] + rng.uniform(-0.5, 2.0))) for sample, row in pairs]
    return first, second


def test_changes_are_those_of_pairs(runs, tmp_path):
    first, second = runs
    comparison = compare_runs(write_run(tmp_path / "a", first), write_run(tmp_path / "b", second[::-1], model="trained"))
    miou = comparison.changes[0]
    ious = [sum(row.iou for row in run) / 200 for run in runs]
    assert (miou.metric, comparison.samples) == ("mIoU", 200)
    assert (miou.first, miou.second) == (pytest.approx(ious[0]), pytest.approx(ious[1]))
    assert miou.difference == pytest.approx(ious[1] - ious[0])
    low, high = miou.interval
    assert 0 < low < miou.difference < high and miou.p_value < 0.01
    assert high - low < 0.05  # of unpaired samples it would be three times as wide
    parse_rate = next(change for change in comparison.changes if change.metric == "parse_rate")
    assert parse_rate.difference == 0.0 and parse_rate.interval == (0.0, 0.0) and parse_rate.p_value == 1.0
    assert comparison.settings == {}


def test_strict_counts_otherwise(tmp_path):
    sample = Sample("x", "v.mp4", "q", ((0.0, 10.0),), 20.0)
    folders = write_run(tmp_path / "a", [answer_to(sample, 7.0)]), write_run(tmp_path / "b", [answer_to(sample, 8.0)])
    changes = {strict: {c.metric: c.difference for c in compare_runs(*folders, strict).changes} for strict in (False, True)}
    assert changes[False]["R1@0.7"] == 0.0 and changes[True]["R1@0.7"] == 1.0


def test_settings_that_differ_are_a_warning(runs, tmp_path, capsys):
    first, second = runs
    other = {"grounding": {"video": {"fps": 1.0}}, "model": "trained", "model_files": {"a.safetensors": "y"}}
    folders = [write_run(tmp_path / "a", first), write_run(tmp_path / "b", second, **other)]
    assert main(folders).settings == {"grounding.video.fps": (2.0, 1.0)}
    shown = capsys.readouterr().out
    assert "warning: grounding.video.fps differs: 2.0 and 1.0" in shown and "model_files" not in shown
    assert f"second: {folders[1]}, model trained" in shown and "warning: model" not in shown
    assert shown.index("warning") < shown.index("mIoU") and "200 samples\n" in shown


def test_how_far_answers_moved(runs, tmp_path, capsys):
    """Of those that both runs answered, beside the shift of the time labels."""
    first, second = runs
    first[3] = Prediction("3", "q3", first[3].spans)
    second[5] = Prediction("5", "q5", first[5].spans)
    probed = write_run(tmp_path / "b", second, probe="shifted_labels", label_shift=5.0)
    movement = main([write_run(tmp_path / "a", first), probed]).movement
    moved = [b.answer[1] - a.answer[1] for a, b in zip(first, second, strict=True) if a.answer and b.answer]
    assert (movement.answers, movement.expected) == (198, 5.0) and len(moved) == 198
    far = sum(map(abs, moved)) / 198
    assert movement.seconds == pytest.approx(
        {"start": 0.0, "end": sum(moved) / 198, "middle": sum(moved) / 396, "distance": far / 2}
    )
    assert far > sum(moved) / 198
    low, high = movement.intervals["end"]
    assert 0 < low < movement.seconds["end"] < high < 1 and movement.intervals["start"] == (0.0, 0.0)
    shown = capsys.readouterr().out
    assert f"{movement.seconds['end']:+.2f}" in shown and "+5.00" in shown and "198 that both answered" in shown
    other = write_run(tmp_path / "c", second, probe="reversed")
    assert compare_runs(probed, other).movement.expected == -5.0
    assert compare_runs(probed, probed).movement is None


def test_no_answer_moved(runs, tmp_path, capsys):
    first, _ = runs
    silent = [Prediction(row.id, row.query, row.spans) for row in first]
    assert main([write_run(tmp_path / "a", first), write_run(tmp_path / "b", silent, probe="blind")]).movement is None
    assert "both answered" not in capsys.readouterr().out


def test_failures_are_shown_side_by_side(runs, tmp_path, capsys):
    first, second = runs
    sample = Sample("0", "v.mp4", "q0", ((0.0, 10.0),), 20.0)
    second[0] = Prediction.answered(sample, "nothing", True, 0.1)
    main([write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)])
    assert "no_answer: 0 and 1" in capsys.readouterr().out


def test_runs_of_other_samples(runs, tmp_path):
    first, second = runs
    changed = Prediction("5", "another query", second[5].spans)
    moved = Prediction("6", "q6", ((0.0, 9.0),))
    folders = write_run(tmp_path / "a", first[:-1]), write_run(tmp_path / "b", [*second[1:5], changed, moved, *second[7:]])
    with pytest.raises(EvaluationError) as error:
        compare_runs(*folders)
    assert str(error.value).splitlines() == [
        "the runs can't be compared: evaluate both on the same samples. There are",
        *("1 samples in the first alone:", "- 0"),
        *("1 samples in the second alone:", "- 199"),
        *("2 samples with another query or other true spans:", "- 5", "- 6"),
    ]


def test_many_other_samples_are_listed_in_part(runs, tmp_path):
    first, second = runs
    with pytest.raises(EvaluationError) as error:
        compare_runs(write_run(tmp_path / "a", first[:50]), write_run(tmp_path / "b", second[100:]))
    _, *lines = str(error.value).splitlines()
    assert len(lines) == 2 * 22 and (lines[0], lines[21]) == ("50 samples in the first alone:", "- and 30 more")
    assert (lines[22], lines[-1]) == ("100 samples in the second alone:", "- and 80 more")


def test_an_unfinished_run(runs, tmp_path):
    first, second = runs
    folder = ResumableFolder(tmp_path / "a", CONFIG | {"samples": {"count": 200, "digest": "d"}})
    folder.append(asdict(row) for row in first[:30])
    with pytest.raises(EvaluationError, match="has 30 of 200 predictions"):
        compare_runs(tmp_path / "a", write_run(tmp_path / "b", second))


def test_an_error_of_the_command_is_one_line(tmp_path, run_module):
    said = run_module("taro.evaluation.compare", tmp_path, tmp_path / "nowhere")
    assert said.startswith("error: ") and "\n" not in said


def test_own_metrics_of_tasks(tmp_path, capsys):
    sample = Sample("x", "v.mp4", "q", ((0.0, 10.0),), 20.0, task="actions")
    folders = write_run(tmp_path / "a", [answer_to(sample, 4.0)]), write_run(tmp_path / "b", [answer_to(sample, 8.0)])
    comparison = main(list(folders))
    assert comparison.tasks["actions F1@0.5"] == (0.0, 1.0) and comparison.tasks["actions count_accuracy"] == (1.0, 1.0)
    assert "actions F1@0.5" in capsys.readouterr().out
    other = write_run(tmp_path / "c", [answer_to(Sample("x", "v.mp4", "q", ((0.0, 10.0),), 20.0), 4.0)])
    with pytest.raises(EvaluationError, match="1 samples with another query"):
        compare_runs(folders[0], other)
