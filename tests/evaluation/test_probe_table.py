import json
from dataclasses import replace

import pytest

from taro.data.samples import Sample
from taro.evaluation.answer_only import OFTEN, ONCE
from taro.evaluation.predictions import EvaluationError, Prediction
from taro.evaluation.probe_table import has_probes, print_probe_table, probe_cells, read_probe_table, way_cells
from taro.files import write_json
from taro.jsonl import ResumableFolder

SAMPLES = [Sample(str(k), "v.mp4", f"q{k}", ((0.0, 10.0),), 30.0) for k in range(40)]


def answers(later=0.0, tokens=100):
    """Starts are right, or `later`; every other end is at 8 s, else at 10."""
    texts = (f"<think></think><answer>{later}s to {(8.0 if k % 2 else 10.0) + later}s</answer>" for k in range(40))
    return [Prediction.answered(sample, text, True, 0.1, tokens) for sample, text in zip(SAMPLES, texts, strict=True)]


def write(folder, predictions, **config):
    samples = {"count": len(SAMPLES), "digest": "d"}
    ResumableFolder(folder, {"model": "m", "dtype": "float32", **config, "samples": samples}).append(
        one.to_row() for one in predictions
    )
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "whole", answers())


def test_each_version_beside_the_questions_as_they_are(folder):
    silent = [replace(one, answer=None, iou=0.0, completion="", failure="no_answer") for one in answers()]
    write(folder / "shuffled", [*answers(2.0)[:30], *silent[30:]], probe="shuffled")
    write(folder / "blind", silent, probe="blind")
    blind = [{"name": name, "miou": 0.2, "r1": [0.3, 0.1, 0.0]} for name in ("a random span", "truth, rounded to seconds")]
    blind.append({"name": "constant", "fitted": "training samples", "miou": 0.1, "r1": [0.0, 0.0, 0.0]})
    write_json(folder / "metrics.json", {"blind": blind})
    table = read_probe_table(folder)
    whole, grey, shuffled = table.probes
    assert (whole.name, whole.miou, whole.r1, whole.lost) == ("as they are", pytest.approx(0.9), 1.0, None)
    assert grey.lost.value == pytest.approx(0.9) and grey.moved is None and grey.answered == 0
    assert shuffled.miou == pytest.approx(15 * (8 / 12 + 8 / 10) / 40) and shuffled.lost.value == pytest.approx(0.35)
    low, high = shuffled.lost.interval
    assert 0.2 < low < shuffled.lost.value < high < 0.5
    assert (shuffled.moved.value, shuffled.answered) == (pytest.approx(2.0), 30) and shuffled.followed is None
    assert [(row.name, row.miou, row.r1) for row in table.blind] == [
        ("a random span", 0.2, 0.1),
        ("constant, training samples", 0.1, 0.0),
    ]
    assert table.remarks == () and table.gaps == () and table.ways == ()
    assert probe_cells(table)[1][2][:1] == ("shuffled",) and probe_cells(table)[1][2][-1] == "2.00"


def test_the_share_of_a_shift_that_answers_follow(folder, capsys):
    """Those that came from the frames stay."""
    stay = answers()
    given = [a if k % 4 else b for k, (a, b) in enumerate(zip(answers(5.0), stay, strict=True))]
    write(folder / "shifted_labels", given, probe="shifted_labels", label_shift=5.0)
    table = read_probe_table(folder)
    found = table.probes[1].followed
    assert found.value == pytest.approx(0.75) and 0.5 < found.interval[0] < 0.75 < found.interval[1] < 0.95
    print_probe_table(table)
    assert "shifted_labels: answers move by 0.750 [0." in capsys.readouterr().out


def test_gaps_by_set_of_tokens(folder):
    rows = [{"id": str(k), "gaps": {"think": 0.1 if k else -0.1, "timestamps": None if k else 0.3}} for k in range(20)]
    rows.append({"id": "20", "gaps": None})
    ResumableFolder(folder / "gap", {"radius": 1.5}, name="gap").append(rows)
    assert has_probes(folder)
    table = read_probe_table(folder)
    think, timestamps = table.gaps
    assert (think.tokens, think.answers, think.positive) == ("think", 20, 0.95) and think.gap.value == pytest.approx(0.09)
    assert 0.05 < think.gap.interval[0] < 0.09 < think.gap.interval[1] <= 0.1 + 1e-9
    assert (timestamps.answers, timestamps.gap.value) == (1, pytest.approx(0.3))
    assert table.remarks == ("the gaps of 21 of 40 samples were measured",)


def test_answers_without_reasoning(folder, capsys):
    about = {"completion_start": "<answer>"}
    write(folder / ONCE, answers(2.0, tokens=20), **about)
    write(folder / OFTEN, answers(1.0, tokens=98), **about, median_of=5, median_temperature=1.0)
    table = read_probe_table(folder)
    assert [(row.answers, row.tokens) for row in table.ways] == [(1, 100), (1, 20), (5, 98)] and table.remarks == ()
    assert table.ways[1].gained.value == pytest.approx(table.ways[1].miou - 0.9) and table.ways[1].gained.value < 0
    assert [row[:2] for row in way_cells(table)[1]][1:] == [("answer only", "20"), ("answer only, median of 5", "98")]
    print_probe_table(table)
    shown = capsys.readouterr().out
    assert "median of 5" in shown and "moved" not in shown


def test_other_settings_are_said_first(folder, capsys):
    write(folder / "blind", answers(), probe="blind", dtype="bfloat16")
    print_probe_table(read_probe_table(folder))
    shown = capsys.readouterr().out
    assert shown.startswith("warning: blind was asked with another dtype: 'bfloat16', and not 'float32'")


def test_what_is_not_finished(folder):
    assert not has_probes(folder)
    write(folder / "blind", answers()[:7], probe="blind")
    with pytest.raises(EvaluationError, match=r"blind has 7 of 40 predictions: finish it"):
        read_probe_table(folder)


def test_it_is_json(folder, tmp_path):
    write(folder / "blind", answers(), probe="blind")
    write_json(tmp_path / "table.json", read_probe_table(folder))
    assert json.loads((tmp_path / "table.json").read_text())["probes"][1]["lost"] == {"value": 0.0, "interval": [0.0, 0.0]}
