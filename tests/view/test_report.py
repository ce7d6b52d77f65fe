import json
import re
from dataclasses import replace

import pytest

from taro.evaluation.predictions import EvaluationError
from taro.view.evaluated import read_evaluation
from taro.view.report import main, make_report_page, run_names


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_report(write_evaluation, markup, capsys):
    folder = write_evaluation()
    output = main([str(folder)])
    page = output.read_text()
    said = capsys.readouterr().out
    assert output == folder / "report.html" and "the report is" in said
    missing = "no frames of videos that are not there (name their folder with --video_root), 1 in all: "
    assert f"warning: {missing}" in said and missing in page and "frames: on the first page of each order" in page
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert f'<th scope="row">mIoU</th><td>{metrics["mIoU"]:.3f}</td>' in page
    assert "R1@0.5 by where in the video the moment is (percent)" in page and "R1@0.5 by length of the moment" in page
    assert "cut_completion: the completion reached max_tokens" in page and "missing_video: there is no such file" in page
    unread = dict(re.findall(r'<th scope="row">(\w+)</th>(?:<td>[\d.]+</td>){2}<td>(\d+ of \d+)</td>', page))
    assert (unread["taro"], unread["time_r1"]) == ("2 of 30", "30 of 30")  # the seconds have units, which that rule can't read
    assert "no text could be read by time_r1, videochat_r1, lmms_eval, timelens: " in page and "here they are whole" in page
    assert '<th scope="row">time_r1</th><td>last &quot;a to b&quot; without units</td><td>IoU &gt; m</td>' in page
    assert "base: made with base" in page and "frames a second" in page
    assert markup not in page and "<img src=x" not in page
    data = data_of(page)
    assert len(data["rows"]) == 30 and len(data["pictures"]) == 1
    assert data["pictures"][0].startswith("data:image/jpeg;base64,") and set(data["strips"].values()) == {0}


def test_two_runs_side_by_side(write_evaluation, markup, tmp_path):
    first, second = write_evaluation("base"), write_evaluation("trained", 0.0)
    page = main([str(first), str(second), "--output", str(tmp_path / "out" / "two.html"), "--strips", "0"]).read_text()
    assert '<th scope="col">base</th><th scope="col">trained</th><th scope="col">change</th>' in page
    assert next(iter(data_of(page)["orders"])) == "differ" and data_of(page)["pictures"] == []
    assert markup not in page


def test_strict_is_as_in_the_evaluation_or_asked_for(write_evaluation):
    folder = write_evaluation()
    assert "R1@0.7 (IoU &gt; 0.7)" in make_report_page([read_evaluation(folder)], strict=True, strips=0)[0]
    assert "(IoU &gt; 0.7)" not in make_report_page([read_evaluation(folder)], strips=0)[0]


def test_a_subset_without_an_official_score(write_evaluation):
    run = replace(read_evaluation(write_evaluation()), official={"mAP": 12.5, "short-mAP": None})
    page, _ = make_report_page([run], strips=0)
    assert '<th scope="row">official mAP</th><td>12.50</td>' in page
    assert '<th scope="row">official short-mAP</th><td>–</td>' in page


def test_names_are_folders_as_far_as_they_differ(write_evaluation):
    one = read_evaluation(write_evaluation("base"))
    other = read_evaluation(write_evaluation("deep/base"))
    assert run_names([one]) == ["base"] and run_names([one, one]) == ["first", "second"]
    assert run_names([one, other]) == [str(one.folder), str(other.folder)]


def test_runs_of_other_samples_are_refused(write_evaluation, samples):
    runs = [read_evaluation(write_evaluation("base"))]
    samples.pop()
    runs.append(read_evaluation(write_evaluation("other")))
    with pytest.raises(EvaluationError, match="the runs can't be compared"):
        make_report_page(runs, strips=0)


def test_fiftyone_comes_with_the_lines_that_load_it(write_evaluation, tmp_path, capsys):
    main([str(write_evaluation()), "--fiftyone", str(tmp_path / "fo"), "--strips", "0"])
    assert "label_field='truth'" in capsys.readouterr().out and (tmp_path / "fo" / "predictions.json").is_file()


@pytest.fixture
def of_two_tasks(write_evaluation, samples):
    """Every third event has several spans, or doesn't occur."""
    for k in range(0, 30, 3):
        samples[k] = replace(samples[k], task="multi_span", spans=() if k % 2 else ((1.0, 2.0), *samples[k].spans))
    return write_evaluation("mixed", again=True)


def test_tasks(write_evaluation, of_two_tasks):
    page, _ = make_report_page([read_evaluation(of_two_tasks)], strips=0)
    data = data_of(page)
    assert data["tasks"] == ["multi_span", "grounding"] and [row["k"] for row in data["rows"][:2]] == data["tasks"]
    assert data["rows"][0]["runs"][0]["s"] == [[0.0, 5.0]] and "s" not in data["rows"][1]["runs"][0]
    assert '<th scope="row">multi_span refusal_recall</th><td>0.000</td>' in page
    assert '<th scope="row">grounding mIoU</th>' in page and "R1@0.5 by task" in page


def test_one_task_is_as_it_was(write_evaluation):
    page, _ = make_report_page([read_evaluation(write_evaluation())], strips=0)
    assert "<h2>Tasks</h2>" not in page and not any("k" in row for row in data_of(page)["rows"])
