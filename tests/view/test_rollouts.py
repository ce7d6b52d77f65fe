import json
import re
from dataclasses import replace

import pytest

from taro.data.samples import Sample
from taro.rl.rollout_log import Record
from taro.view import rollouts
from taro.view.rollouts import _row, main, make_rollouts_page, parse_steps, read_run, spread_steps
from taro.view.timeline import ViewError


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_of_a_run(run_folder, markup, capsys):
    output = main([str(run_folder)])
    page = output.read_text()
    assert output == run_folder / "rollouts.html" and "doesn't say what the run was trained on" in capsys.readouterr().out
    assert "<title>rollouts of run</title>" in page and markup not in page and "<img src=x" not in page
    data = data_of(page)
    assert data["rewards"] == ["format", "iou"] and data["most"] == pytest.approx(1.6)
    assert [one["times"] for one in data["prompts"]] == [3, 1, 1, 1] and data["prompts"][0]["id"] == "always"
    best = data["groups"][4]["rows"][0]
    assert data["groups"][4]["s"] == 3 and best["r"] == [1.0, 0.3] and best["a"] == [6.0, 11.0] and best["g"] == 0.25
    assert best["t"] == 1.6  # the weighted sum


def test_a_temporal_reward_without_a_gap_is_none():
    record = Record("a", "q", ((1.0, 2.0),), "text", None, 0.5, {"iou": 0.5, "temporal": 0.0}, 0.0)
    assert _row(record, ["iou", "temporal"])["r"] == [0.5, None]
    assert _row(replace(record, temporal_gap=0.01), ["iou", "temporal"])["r"] == [0.5, 0.0]


def test_means_are_of_all_steps_and_completions_of_as_many_as_there_is_room_for(run_folder, monkeypatch):
    monkeypatch.setattr(rollouts, "MOST_BYTES", (run_folder / "rollouts" / "step_000001.jsonl").stat().st_size * 5 // 2)
    run = read_run(run_folder)
    assert [one.step for one in run.means] == [1, 2, 3] and {group.step for group in run.groups} == {1, 3}
    assert run.means[1].rewards == {"format": 0.5, "iou": pytest.approx(0.05)}
    assert (run.means[1].without_spread, run.means[1].constructed) == (0.5, 0.25)
    assert "completions of 2 of 3 steps are in this page" in run.remarks[-1]


def test_some_steps_or_one_prompt(run_folder):
    assert {group.step for group in read_run(run_folder, (2, 9)).groups} == {2, 3}
    assert [group.records[0].id for group in read_run(run_folder, None, "always").groups] == ["always"] * 3
    with pytest.raises(ViewError, match="--steps 7-9: the run has steps 1 to 3"):
        read_run(run_folder, (7, 9))
    with pytest.raises(ViewError, match=r"no rollouts of --prompt x in these steps; there are always, once1, once2, \.\.\."):
        read_run(run_folder, None, "x")


def test_a_page_says_that_there_may_be_more_frames(run_folder, video_file):
    clips = {"always": None, "once1": (0.0, 2.0)}
    samples = {id: Sample(id, str(video_file), "q", ((1.0, 2.0),), 9.0, clip=clip) for id, clip in clips.items()}
    page = make_rollouts_page(replace(read_run(run_folder), samples=samples), strips=1)
    assert "frames are shown of 1 videos, not of 1 others; --strips N shows more" in page


def test_steps_are_spread():
    assert spread_steps({k: 10 for k in range(10)}, 100) == set(range(10))
    assert spread_steps({k: 10 for k in range(10)}, 40) == {0, 3, 6, 9}
    assert spread_steps({5: 1000, 6: 1000}, 10) == {5}


def test_what_steps_are_written_like():
    assert parse_steps(None) is None and parse_steps("5") == (5, 5) and parse_steps("1-50") == (1, 50)
    for text in ("x", "5-1", "-3", "1-"):
        with pytest.raises(ViewError, match="give a step, or the first and the last one"):
            parse_steps(text)
