"""Scoring; for selection see test_selection.py."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prepared_python import Command

from taro.data.samples import SampleError, load_samples, save_samples
from taro.jsonl import ResumeError, read_config, read_rows
from taro.models.families import ModelError
from taro.models.qwen_vl import QwenVL
from taro.prepare.difficulty import DifficultyError, ScoredSample, main
from taro.rows import read_objects
from taro.run import eval as evaluation
from taro.spans import temporal_iou
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.load import VideoSettings

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def score(model, synthetic, tmp_path):
    def run(*more, output="out"):
        flags = [f"--model={model}", f"--input={synthetic}/train.jsonl", f"--output={tmp_path}/{output}.jsonl"]
        main([*flags, "--samples=3", "--max_tokens=6", "--workers=0", *more])
        return tmp_path / f"{output}.jsonl"

    return run


@pytest.fixture
def saying(monkeypatch, scripted, tiny_builder):
    """Puts an engine into the command whose completions are these texts, in turn; gives the seeds of each group asked."""

    def install(*texts):
        said, seeds = [[*tiny_builder.encode(text), tiny_builder.eos_id] for text in texts], []

        class Engine(scripted.engine):
            def generate(self, prompts, sampling):
                seeds.extend(prompt.seeds for prompt in prompts)
                return super().generate(prompts, sampling)

        monkeypatch.setattr("taro.rollout.start.NativeEngine", lambda *_: Engine(lambda row, *_: said[row % len(said)]))
        return seeds

    return install


def answering(start, end):
    return f"<think>a</think><answer>{start:.2f}s to {end:.2f}s</answer>"


# ---- What is written ----


def test_difficulty_is_the_mean_iou_in_percent(score, saying, synthetic, tmp_path, capsys):
    saying(answering(1, 5), "no answer", answering(4, 9))
    rows = read_rows(synthetic / "train.jsonl")
    for row in rows:
        row |= {"video": str(synthetic / row["video"]), "difficulty": 12.5, "pred": [1, 2], "difficulty_failure": "old"}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = read_rows(score(f"--input={tmp_path}/in.jsonl"))
    assert len(written) == 6
    for row, before in zip(written, rows, strict=True):
        expected = [temporal_iou(span, tuple(before["spans"][0])) for span in ((1.0, 5.0), None, (4.0, 9.0))]
        assert row["ious"] == expected and row["difficulty"] == pytest.approx(100 * sum(expected) / 3)
        assert "difficulty_failure" not in row
        row["video"] = str(tmp_path / row["video"])
        assert os.path.samefile(row["video"], before["video"])
        rest = {"difficulty", "ious", "difficulty_failure", "video"}
        assert {name: row[name] for name in row.keys() - rest} == {name: before[name] for name in before.keys() - rest}
    shown = capsys.readouterr().out
    assert "6 of 6 samples scored, 0 could not be asked" in shown and "6 of 18 completions without an answer" in shown
    assert "0.9 to 1.0" in shown


def test_none_is_right_where_nothing_happens(score, saying, synthetic, tmp_path, capsys):
    saying("<answer>none</answer>", "no answer", answering(4, 9))
    [row] = read_rows(synthetic / "train.jsonl")[:1]
    row |= {"video": str(synthetic / row["video"]), "task": "multi_span", "spans": []}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    [written] = read_rows(score(f"--input={tmp_path}/in.jsonl"))
    assert written["ious"] == [1.0, 0.0, 0.0] and "; 1 of 3 completions without an answer" in capsys.readouterr().out


def test_greedy_answers_are_those_of_the_evaluation(score, model, synthetic, tmp_path):
    """Time-R1's way, and with the same parser and IoU as everywhere."""
    score("--samples=1", "--temperature=0")
    flags = ["--dataset=Synthetic", f"--model={model}", f"--annotations={synthetic}/train.jsonl", "--max_tokens=6"]
    expected = evaluation.main([*flags, "--workers=0"]).predictions
    rows = {row["id"]: row for row in read_rows(tmp_path / "out.difficulty" / "answers.jsonl")}
    kept = list(read_objects(ScoredSample, rows, "sample").values())
    assert [score.completions for score in kept] == [(prediction.completion,) for prediction in expected]
    assert [score.ious for score in kept] == [(prediction.iou,) for prediction in expected]


def test_prompts_and_videos_are_those_of_training(score, model, grounding, tmp_path):
    replace(grounding, evaluation_video=VideoSettings(fps=0.5, max_tokens=16), evaluation_max_prompt_tokens=15).save(model)
    assert all(row["ious"] for row in read_rows(score()))  # 15 tokens would be too few
    assert read_config(tmp_path / "out.difficulty")["video"]["max_tokens"] == 64


# ---- Seeds ----


def test_seeds_follow_from_the_sample(score, saying, synthetic, tmp_path):
    seeds = saying("no")
    score()
    first = dict(zip([sample.id for sample in load_samples(synthetic / "train.jsonl")], seeds, strict=True))
    assert all(len(own) == 3 for own in first.values()) and len({seed for own in first.values() for seed in own}) == 18
    samples = load_samples(synthetic / "train.jsonl")[::-1]
    save_samples(samples, tmp_path / "turned.jsonl")
    seeds.clear()
    score(f"--input={tmp_path}/turned.jsonl", "--samples=5", output="more")
    assert [own[:3] for own in seeds] == [first[sample.id] for sample in samples]
    seeds.clear()
    score("--seed=1", "--limit=1", output="other")
    assert len(seeds) == 1 and not set(seeds[0]) & set(first[samples[-1].id])


def test_batches_workers_and_shards_change_no_answer(score, tmp_path, capsys):
    def completions(name):
        return [row["completions"] for row in read_rows(tmp_path / f"{name}.difficulty" / "answers.jsonl")]

    whole = score("--batch_size=1", output="whole")
    score("--batch_size=4", "--workers=1", output="batched")
    for number in (1, 0):
        assert not (tmp_path / "sharded.jsonl").exists()
        score(f"--shard={number}/2", output="sharded")
    assert completions("whole") == completions("batched") == completions("sharded")
    assert whole.read_bytes() == (tmp_path / "sharded.jsonl").read_bytes()
    assert len({text for own in completions("whole") for text in own}) > 6  # the answers to one sample differ
    assert "so far: other shards have 3 still to do" in capsys.readouterr().out


# ---- Failures and stops ----


def test_failed_videos_are_marked_and_listed(score, damaged, tmp_path, synthetic, capsys):
    samples = load_samples(damaged)
    save_samples([replace(samples[0], extra={"difficulty": 50.0, "ious": [0.5]}), *samples[1:]], damaged)
    rows = read_rows(score(f"--input={damaged}"))
    assert all(not row.keys() & {"difficulty", "ious"} for row in rows[:3])
    assert rows[0]["difficulty_failure"] == f"missing_video: {tmp_path}/missing.mp4 does not exist"
    assert rows[2]["difficulty_failure"].startswith(f"unreadable_video: VideoError: {tmp_path}/truncated.mp4")
    assert all(len(row["ious"]) == 3 and "difficulty_failure" not in row for row in rows[3:])
    shown = capsys.readouterr().out
    assert "3 of 6 samples scored, 3 could not be asked" in shown and f"missing_video: {rows[0]['id']}: " in shown
    (tmp_path / "missing.mp4").write_bytes(Path(load_samples(synthetic / "train.jsonl")[0].video).read_bytes())
    again = read_rows(score(f"--input={damaged}"))
    assert len(again[0]["ious"]) == 3 and again[1:] == rows[1:]  # asks about that one, and nothing else
    assert len(read_rows(tmp_path / "out.difficulty" / "answers.jsonl")) == 6


def test_a_stopped_scoring_goes_on_with_what_is_missing(score, saying, tmp_path, monkeypatch):
    saying(answering(1, 5), answering(2, 9), "no")
    written = score()
    whole, path = written.read_bytes(), tmp_path / "out.difficulty" / "answers.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    written.unlink()
    seeds = saying(answering(1, 5), answering(2, 9), "no")
    score()
    assert len(seeds) == 3 and written.read_bytes() == whole
    monkeypatch.setattr(QwenVL, "from_pretrained", None)  # nothing is missing: no model is loaded
    score()
    assert written.read_bytes() == whole


@pytest.mark.slow
def test_a_killed_scoring_gives_the_same_file(score, model, synthetic, tmp_path):
    flags = ["--samples=4", "--max_tokens=100", "--batch_size=1"]
    whole = score(*flags, output="whole").read_bytes()
    arguments = [f"--model={model}", f"--input={synthetic}/train.jsonl", f"--output={tmp_path}/killed.jsonl", *flags]
    path = tmp_path / "killed.difficulty" / "answers.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = Command(["-m", "taro.prepare.difficulty", *arguments], env=environment)
    while not path.is_file() or path.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(read_rows(path)) < 6 and not (tmp_path / "killed.jsonl").exists()
    assert score(*flags, output="killed").read_bytes() == whole


def test_without_a_video_no_model_is_loaded_and_without_a_readable_one_nothing_is_scored(score, synthetic, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QwenVL, "from_pretrained", None)
        with pytest.raises(SampleError, match=r"not one of its 3 videos is there.*set --video_root"):
            score(f"--video_root={tmp_path}")
    for sample in load_samples(synthetic / "train.jsonl", video_root=tmp_path):
        Path(sample.video).parent.mkdir(exist_ok=True)
        Path(sample.video).touch()
    with pytest.raises(DifficultyError, match="no sample has been scored"):
        score(f"--video_root={tmp_path}")
    assert all("difficulty_failure" in row for row in read_rows(tmp_path / "out.jsonl"))


def test_an_output_holds_one_configuration_which_names_what_determines_the_answers(score, saying, model, grounding, tmp_path):
    saying("no")
    score("--temperature=0.7")
    config = read_config(tmp_path / "out.difficulty")
    assert config["model"] == model and config["engine"] == "native" and config["dtype"] == "float32"
    assert config["sampling"] == {"temperature": 0.7, "max_tokens": 6, "repetition_penalty": 1.0}
    assert config["answers"] == 3 and config["seed"] == 0 and config["prompt"] == TINY_PROMPT
    assert config["samples"]["count"] == 6 and "model.safetensors" in config["model_files"]
    replace(grounding, video=replace(grounding.video, timeout=7.0)).save(model)
    score("--temperature=0.7", "--batch_size=2", "--workers=1")  # these change no answer
    with pytest.raises(ResumeError) as error:
        score("--temperature=0.7", "--samples=4", "--seed=1", "--limit=5")
    names = [line.split(":")[0] for line in str(error.value).splitlines()[1:]]
    assert names == ["- answers", "- samples.count", "- samples.digest", "- seed"]


# ---- What can't work ----


def test_all_problems_come_at_once_and_before_the_model(score, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("taro.evaluation.questions.load_samples", None)
    (tmp_path / "out.jsonl").write_text("mine")
    flags = ["--input=nowhere.jsonl", "--video_root=nowhere", "--temperature=0", "--shard=2/2", "--device=gpu"]
    with pytest.raises(DifficultyError) as error:
        score(*flags)
    assert str(error.value).splitlines() == [
        "can't score:",
        "- --input nowhere.jsonl: no such file",
        "- --video_root nowhere: no such folder",
        f"- --output {tmp_path}/out.jsonl: exists already; choose another, or delete it",
        "- --shard 2/2: give i/n with 0 <= i < n, as in 0/8",
        "- --samples 3: with --temperature 0 all answers are the same; take 1, or raise the temperature",
        "- --device gpu: must be auto, cpu, cuda or cuda:N",
    ]
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    for flag in ("samples=0", "limit=0", "temperature=-1", "repetition_penalty=0"):
        with pytest.raises(SystemExit):
            score(f"--{flag}")
        assert f"error: {flag.replace('=', ' = ')}: must be a" in capsys.readouterr().err


def test_other_errors_come_before_the_weights(score, monkeypatch, tmp_path):
    monkeypatch.setattr(QwenVL, "from_pretrained", None)
    with pytest.raises(ModelError, match="there is no such folder"):
        score(f"--model={tmp_path}/nothing")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(SampleError, match="line 1: id: got nothing"):
        score(f"--input={tmp_path}/rows.jsonl")


@pytest.mark.parametrize("start", [["--model=m"], ["select", "--range", "0", "0.7"]])
def test_an_error_is_one_line(start, tmp_path, monkeypatch, run_module):
    monkeypatch.chdir(tmp_path)
    said = run_module("taro.prepare.difficulty", *start, "--input=x.jsonl", "--output=y.jsonl")
    assert said == "error: --input x.jsonl: no such file"
