import importlib.util
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prepared_python import Command, python

from taro.data.samples import SampleError, load_samples, save_samples
from taro.evaluation.predictions import EvaluationError, Prediction
from taro.evaluation.report import print_report
from taro.jsonl import ResumeError, read_config
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.rows import read_objects
from taro.run import eval as command
from taro.run import train
from taro.synthetic.architecture import TINY_PROMPT

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def evaluate(model):
    def run(*arguments):
        return command.main(["--dataset=Synthetic", f"--model={model}", "--max_tokens=6", "--workers=0", *arguments])

    return run


def without_seconds(predictions):
    return [replace(prediction, seconds=0.0) for prediction in predictions]


def test_every_sample_counts(evaluate, damaged, tmp_path, capsys):
    evaluation = evaluate(f"--annotations={damaged}", f"--output={tmp_path}/out", "--batch_size=2")
    assert evaluation.metrics["samples"] == 6 and evaluation.metrics["failed"] == 3
    expected = [sample.id for sample in load_samples(damaged)]
    rows = read_rows(tmp_path / "out" / "predictions.jsonl")
    assert list(read_objects(Prediction, {row["id"]: row for row in rows}, "prediction").values()) == evaluation.predictions
    assert [row["id"] for row in rows] == expected
    for row, name in zip(rows, ("missing", "empty", "truncated"), strict=False):
        assert f"{name}.mp4" in row["reason"] and row["seconds"] == 0.0
        assert row["completion"] is None and row["answer"] is None and row["iou"] == 0.0
    assert [row["failure"] for row in rows] == ["missing_video"] + 2 * ["unreadable_video"] + 3 * ["cut_completion"]
    assert all(row["completion"] and row["seconds"] > 0 for row in rows[3:])
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["metrics"] | {"failed": 3, "samples": 6} == evaluation.metrics and stored["dataset"] == "Synthetic"
    assert [(row["counted"], row["cut"]) for row in stored["protocols"]][:5:4] == [(6, False), (3, True)]  # taro, lmms_eval
    assert [row["name"] for row in stored["blind"]] == [row.name for row in evaluation.beside.blind] != []
    assert stored["failures"]["unreadable_video"] == 2 and stored["failed"] == 3 and stored["samples"] == 6
    assert stored["intervals"].keys() == stored["metrics"].keys()
    print_report(evaluation.report, evaluation.predictions, evaluation.asked)
    shown = capsys.readouterr().out
    assert f"missing_video: {expected[0]}: " in shown and f"unreadable_video: {expected[1]}: VideoError" in shown
    assert f"cut_completion: {expected[3]}: " in shown and "cut_completion: 3" in shown


def test_all_videos_missing_is_an_error_before_a_model_is_loaded(evaluate, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr("taro.rollout.start.start_engine", lambda *_, **__: pytest.fail("a model is loaded"))
    arguments = [f"--annotations={synthetic}/test.jsonl", f"--video_root={tmp_path}", f"--output={tmp_path}/out"]
    with pytest.raises(SampleError, match=f"not one of its . videos is there.* {tmp_path}.*set --video_root"):
        evaluate(*arguments)
    assert not (tmp_path / "out" / "predictions.jsonl").exists() or not read_rows(tmp_path / "out" / "predictions.jsonl")


def test_a_duration_that_is_not_the_videos_is_named_and_counts(evaluate, synthetic, tmp_path, caplog):
    """Nothing in an evaluation follows from it."""
    samples = load_samples(synthetic / "test.jsonl")
    save_samples([replace(samples[0], duration=500.0), *samples[1:]], tmp_path / "rows.jsonl")
    evaluation = evaluate(f"--annotations={tmp_path}/rows.jsonl")
    assert all(prediction.completion for prediction in evaluation.predictions)
    [line] = [record.getMessage() for record in caplog.records if "duration" in record.getMessage()]
    expected = f"1 samples state another duration than their video has, the first is {samples[0].id}: 500 s against"
    assert line.startswith(expected)


def test_a_file_of_ones_own_needs_no_dataset_and_no_durations(model, synthetic, tmp_path):
    rows = read_rows(synthetic / "test.jsonl")
    for row in rows:
        del row["duration"]
    rows.append({**rows[0], "id": "lost", "video": "nowhere.mp4"})
    (tmp_path / "test").symlink_to(synthetic / "test")
    own = tmp_path / "my clips.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [f"--model={model}", f"--annotations={own}", "--max_tokens=6", "--workers=0", f"--output={tmp_path}/out"]
    evaluation = command.main(arguments)
    failures = [prediction.failure for prediction in evaluation.predictions]
    assert failures == ["cut_completion"] * (len(rows) - 1) + ["missing_video"]
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["dataset"] == "my clips" and stored["breakdowns"]["video_length"]["unknown"]["samples"] == 1


def test_a_stopped_evaluation_goes_on_with_what_is_missing(evaluate, damaged, tmp_path, monkeypatch):
    """Its last line may be cut off."""
    arguments = [f"--annotations={damaged}", f"--output={tmp_path}/out"]
    whole = evaluate(*arguments)
    path = tmp_path / "out" / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    asked, build = [], PromptBuilder.build
    monkeypatch.setattr(PromptBuilder, "build", lambda self, *given: asked.append(given) or build(self, *given))
    again = evaluate(*arguments)
    assert without_seconds(again.predictions) == without_seconds(whole.predictions)
    assert len(asked) == 3  # of the three with videos none was left
    assert [row["id"] for row in read_rows(path)] == [prediction.id for prediction in whole.predictions]
    monkeypatch.setattr(QwenVL, "from_pretrained", None)  # nothing is missing: no model is loaded
    metrics = tmp_path / "out" / "metrics.json"
    before = path.read_text(), metrics.read_text()
    assert evaluate(*arguments).predictions == again.predictions and (path.read_text(), metrics.read_text()) == before
    metrics.unlink()  # stopped after the last answer
    evaluate(*arguments)
    assert metrics.read_text() == before[1]


def test_a_video_that_was_missing_is_asked_for_once_it_is_there(evaluate, synthetic, tmp_path):
    samples = load_samples(synthetic / "train.jsonl")
    save_samples([replace(samples[0], video=str(tmp_path / "late.mp4")), samples[1]], tmp_path / "rows.jsonl")
    arguments = [f"--annotations={tmp_path}/rows.jsonl", f"--output={tmp_path}/out"]
    first = evaluate(*arguments)
    assert first.predictions[0].failure == "missing_video"
    (tmp_path / "late.mp4").write_bytes(Path(samples[0].video).read_bytes())
    second = evaluate(*arguments)
    assert second.predictions[0].completion and second.predictions[1] == first.predictions[1]
    assert second.report.failures["missing_video"] == 0
    assert len(read_rows(tmp_path / "out" / "predictions.jsonl")) == 2


def test_a_killed_evaluation_gives_the_same_file(model, damaged, tmp_path):
    arguments = ["--dataset=Synthetic", f"--model={model}", f"--annotations={damaged}", "--max_tokens=150", "--batch_size=1"]
    whole = command.main([*arguments, f"--output={tmp_path}/whole", "--workers=0"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = [str(ROOT / "eval.py"), *arguments, f"--output={tmp_path}/killed", "--workers=1"]
    path, metrics = tmp_path / "killed" / "predictions.jsonl", tmp_path / "killed" / "metrics.json"
    process = Command(started, env=environment)
    while not path.is_file() or path.read_bytes().count(b"\n") < 4:  # the first one has no video
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 4 <= len(read_rows(path)) < 6 and not metrics.exists()
    command.main([*arguments, f"--output={tmp_path}/killed", "--workers=0"])
    rows, expected = (read_rows(tmp_path / name / "predictions.jsonl") for name in ("killed", "whole"))
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in expected]
    assert json.loads(metrics.read_text())["metrics"] == whole.report.metrics


def test_an_output_folder_holds_one_configuration(evaluate, synthetic, tmp_path):
    arguments = [f"--annotations={synthetic}/train.jsonl", f"--output={tmp_path}/out", "--limit=1"]
    evaluate(*arguments)
    evaluate(*arguments, "--strict", "--resamples=10", "--batch_size=3")  # these change no answer
    with pytest.raises(ResumeError) as error:
        evaluate(*arguments, "--grounding.video.max_tokens=32", "--repetition_penalty=1.05")
    text = str(error.value)
    assert "out holds the results of another configuration" in text and "- model" not in text
    assert "- sampling.repetition_penalty: 1.0 there, 1.05 now" in text


def test_the_configuration_names_what_determines_the_answers(evaluate, model, synthetic, tmp_path):
    evaluation = evaluate(f"--annotations={synthetic}/train.jsonl", f"--output={tmp_path}", "--limit=1")
    config = read_config(tmp_path)
    assert config["model"] == model and config["engine"] == "native" and config["dtype"] == "float32"
    assert config["sampling"] == {"temperature": 0.0, "max_tokens": 6, "repetition_penalty": 1.0}
    assert config["grounding"]["prompt"] == TINY_PROMPT and config["grounding"]["video"]["max_tokens"] == 64
    assert config["max_prompt_tokens"] == 1024 and config["samples"]["count"] == 1
    assert config["packages"]["torch"] == torch.__version__ and config == evaluation.configuration | {"shards": 1}
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= config["model_files"].keys()


def test_another_model_or_other_samples_under_the_same_names(evaluate, model, synthetic, tmp_path):
    arguments = [f"--annotations={tmp_path}/rows.jsonl", f"--output={tmp_path}/out"]
    samples = load_samples(synthetic / "train.jsonl")
    save_samples(samples[:2], tmp_path / "rows.jsonl")
    evaluate(*arguments)
    weights = Path(model) / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(ResumeError, match=r"- model_files\.model\.safetensors: "):
        evaluate(*arguments)
    save_samples([replace(samples[0], spans=((0.0, 1.0),)), samples[1]], tmp_path / "rows.jsonl")
    with pytest.raises(ResumeError, match=r"- samples\.digest: "):
        evaluate(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=gpu"], "--device gpu: must be auto, cpu, cuda or cuda:N"),
        (["--device=cuda:"], "--device cuda:: must be auto, cpu, cuda or cuda:N"),
        (["--device=cuda:99"], "--device cuda:99: .* GPUs are there"),
        (["--engine=vllm", "--device=cuda:1"], "--device cuda:1: .* set CUDA_VISIBLE_DEVICES, and cuda here"),
    ],
)
def test_what_can_not_be_asked_for(evaluate, synthetic, arguments, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(f"--annotations={synthetic}/train.jsonl", *arguments)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batch_size", "0", "a whole number, at least 1"),
        ("limit", "0", "a whole number, at least 1"),
        ("workers", "-1", "a whole number, at least 0"),
        ("resamples", "0", "a whole number, at least 1"),
        ("repetition_penalty", "0", "a number above 0"),
    ],
)
def test_numbers_out_of_their_range(evaluate, capsys, name, value, said):
    with pytest.raises(SystemExit):
        evaluate(f"--{name}={value}")
    assert capsys.readouterr().err.startswith(f"error: {name} = {value}: must be {said} (eval.py --help")


def test_all_that_can_not_be_is_said_at_once(evaluate):
    with pytest.raises(EvaluationError) as error:
        evaluate("--annotations=nowhere.jsonl", "--shard=2/2")
    assert str(error.value).splitlines() == [
        "can't evaluate:",
        "- --annotations nowhere.jsonl: no such samples file",
        "- --shard 2/2: give i/n with 0 <= i < n, as in 0/8",
        "- --shard needs --output, the folder that the shards share",
    ]


def test_shards_together_are_the_whole(evaluate, synthetic, tmp_path, capsys):
    annotations = f"--annotations={synthetic}/train.jsonl"
    whole = evaluate(annotations)
    parts = []
    for i in (2, 0, 3, 1):
        assert not (tmp_path / "out" / "metrics.json").exists()
        parts.append(evaluate(annotations, f"--output={tmp_path}/out", f"--shard={i}/4"))
    assert [len(part.predictions) for part in parts] == [1, 3, 4, 6]
    assert without_seconds(parts[-1].predictions) == without_seconds(whole.predictions)
    assert parts[-1].metrics == whole.metrics
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"] == whole.report.metrics
    rows = read_rows(tmp_path / "out" / "predictions.jsonl")
    assert [row["id"] for row in rows] == [prediction.id for prediction in whole.predictions]
    print_report(parts[0].report, parts[0].predictions, parts[0].asked)
    assert "so far: 6 were asked for" in capsys.readouterr().out
    with pytest.raises(ResumeError, match="shards: 4 there, 2 now"):
        evaluate(annotations, f"--output={tmp_path}/out", "--shard=0/2")


def test_vllm_that_is_not_installed(evaluate, synthetic, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *given: None if name == "vllm" else find(name, *given))
    with pytest.raises(EvaluationError, match=r"--engine vllm: .* pip install -e '\.\[vllm\]', or take native"):
        evaluate(f"--annotations={synthetic}/train.jsonl", "--engine=vllm")


def test_batches_and_workers_change_no_answer(evaluate, synthetic):
    annotations = f"--annotations={synthetic}/train.jsonl"
    first = evaluate(annotations, "--batch_size=1").predictions
    second = evaluate(annotations, "--batch_size=4", "--workers=1").predictions
    assert without_seconds(first) == without_seconds(second)
    assert len({prediction.completion for prediction in first}) > 1


def test_answers_are_greedy_ones_of_the_model(evaluate, model, grounding, synthetic, tiny_builder):
    from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings
    from taro.video.load import load_video

    (prediction,) = evaluate(f"--annotations={synthetic}/train.jsonl", "--limit=1").predictions
    sample = load_samples(synthetic / "train.jsonl")[0]
    video = load_video(sample.video, clip=None, settings=grounding.video, geometry=tiny_builder.geometry)
    engine = NativeEngine(QwenVL.from_pretrained(model), tiny_builder.end_ids)
    prompt = RolloutPrompt(tiny_builder.build(sample.query, video), ((),), (0,))
    (group,) = engine.generate([prompt], SamplingSettings(temperature=0.0, max_tokens=6))
    assert prediction.completion == tiny_builder.decode(group.completions[0])


def test_settings_in_the_model_folder_are_used(evaluate, model, grounding, synthetic, tmp_path):
    """Unless others are given."""
    annotations = f"--annotations={synthetic}/train.jsonl"
    replace(grounding, prompt="At which time: {query}", evaluation_max_prompt_tokens=15).save(model)
    limited = evaluate(annotations, "--limit=1", f"--output={tmp_path}/out").predictions[0]
    assert limited.failure == "refused_prompt" and "15 are allowed" in limited.reason
    stored = read_config(tmp_path / "out")["grounding"]
    assert stored["prompt"] == "At which time: {query}" and stored["video"]["max_tokens"] == 64
    given = evaluate(annotations, "--limit=1", "--grounding.video.max_tokens=64", f"--output={tmp_path}/own")
    assert given.predictions[0].completion
    assert read_config(tmp_path / "own")["grounding"]["prompt"] != stored["prompt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=null"], "what to evaluate on: give --dataset, the name of a benchmark, or --annotations, a samples file"),
        (["--dataset=Charade"], "--dataset Charade: unknown, allowed: Charades or Charades-STA, .*, Synthetic; --datasets"),
        (["--dataset=ego4d_nlq"], "val.jsonl is not there.* ego4d-data.org.* -m taro.prepare.convert --source ego4d_nlq"),
        (["--annotations=nowhere.jsonl"], "--annotations nowhere.jsonl: no such samples file"),
        (["--datasets=nowhere.yaml"], "--datasets nowhere.yaml: can't be read"),
    ],
)
def test_errors_come_before_the_model(evaluate, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setattr(QwenVL, "from_pretrained", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match=message):
        evaluate(*arguments)


def test_an_error_is_one_line(tiny_folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [python(), str(ROOT / "eval.py"), "--dataset=Nothing", f"--model={tiny_folder}"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --dataset Nothing: unknown, allowed: ") and done.stderr.count("\n") == 1


def test_a_trained_model_is_evaluated_as_in_training(arguments, synthetic, tmp_path):
    """eval.py on a run's exported model gives the metrics that the run reported."""
    test_file = f"{synthetic}/test.jsonl"
    extra = [f"--data.test_file={test_file}", "--trainer.max_steps=1", "--model.evaluation_max_tokens=6"]
    summary = train.main([*arguments, *extra])
    command_line = ["--dataset=Synthetic", f"--model={tmp_path}/run/hf", f"--annotations={test_file}", "--max_tokens=6"]
    metrics = command.main([*command_line, "--workers=0"]).metrics
    for name, value in summary["after"].items():
        assert metrics[name] == pytest.approx(value), name


def test_a_registry_of_ones_own(evaluate, model, synthetic, tmp_path):
    (tmp_path / "own.yaml").write_text(
        f"My-Set:\n  annotations: {tmp_path}/rows.jsonl\n  video_root: {synthetic}\n  split: test\n  license: mine\n"
        "  homepage: here\n  make: nothing\n  breakdowns: [kind, nobody_has_it]\n"
    )
    rows = read_rows(synthetic / "train.jsonl")
    kinds = ["b", "a", "b", "b", None, "b"]
    rows = [row | {"kind": kind} for row, kind in zip(rows, kinds, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [f"--datasets={tmp_path}/own.yaml", "--dataset=my_set", f"--output={tmp_path}/out", f"--model={model}"]
    evaluation = command.main([*arguments, "--max_tokens=6", "--workers=0"])
    assert evaluation.metrics["failed"] == 0
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {kind: part["samples"] for kind, part in stored["breakdowns"]["kind"].items()} == {"a": 1, "b": 4}
    assert stored["dataset"] == "My-Set" and "nobody_has_it" not in stored["breakdowns"]


def test_qvhighlights_gets_a_submission_and_its_official_scores(model, synthetic, tmp_path, monkeypatch):
    rows = []
    for number, sample in enumerate(load_samples(synthetic / "train.jsonl")):
        windows = {"relevant_windows": [list(span) for span in sample.spans], "video_file": sample.video}
        rows.append({"qid": number, "query": sample.query, "vid": f"v{number}", "duration": sample.duration} | windows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start, end = rows[1]["relevant_windows"][0]
    end = (start + end) / 2  # IoU 0.5
    answer = f"<think>a</think><answer>{start}s to {end}s</answer>"
    monkeypatch.setattr(PromptBuilder, "decode", lambda *_: answer)
    arguments = ["--dataset=qv-highlights", f"--model={model}", f"--annotations={tmp_path}/rows.jsonl"]
    found = command.main([*arguments, f"--output={tmp_path}/out", "--max_tokens=2", "--workers=0"])
    submission = read_rows(tmp_path / "out" / "submission.jsonl")
    assert [row["qid"] for row in submission] == list(range(6)) and submission[3]["vid"] == "v3"
    assert all(row["pred_relevant_windows"] == [[start, end, 1.0]] for row in submission)
    official = json.loads((tmp_path / "out" / "metrics.json").read_text())["official"]
    assert official["MR-full-R1@0.5"] == round(100 * found.metrics["R1@0.5"], 2) > 0
    assert official["MR-full-mAP@0.5"] > 0 and official["MR-long-mAP"] is None  # none of the moments is that long
    assert found.report.official["MR-full-mAP"] == official["MR-full-mAP"]
    strict = command.main([*arguments, f"--output={tmp_path}/out", "--max_tokens=2", "--workers=0", "--strict"])
    assert strict.report.official["MR-full-R1@0.5"] == round(100 * strict.metrics["R1@0.5"], 2) < official["MR-full-R1@0.5"]


needs_the_real_clip = pytest.mark.skipif(
    not (SHARED / "videos" / "OHOFG.mp4").exists(), reason="the real Charades clip is not here (../shared/videos)"
)


def evaluate_charades(model, file, *arguments):
    where = [f"--annotations={SHARED}/annotations/{file}", f"--video_root={SHARED}/videos"]
    return command.main(["--dataset=Charades", f"--model={model}", *where, "--max_tokens=4", "--workers=0", *arguments])


@needs_the_real_clip
def test_a_real_charades_video(model):
    evaluation = evaluate_charades(model, "charades_one_video.jsonl")
    assert evaluation.metrics["samples"] == 6 and evaluation.metrics["failed"] == 0
    queries = [row["query"] for row in read_rows(SHARED / "annotations" / "charades_one_video.jsonl")]
    assert [prediction.query for prediction in evaluation.predictions] == queries
    assert torch.tensor([prediction.iou for prediction in evaluation.predictions]).isfinite().all()


@needs_the_real_clip
def test_all_of_charades_counts_when_one_video_is_there(model, tmp_path):
    evaluation = evaluate_charades(model, "charades_sta_test.jsonl", f"--output={tmp_path}")
    rows = read_rows(tmp_path / "predictions.jsonl")
    assert evaluation.metrics["samples"] == len(rows) == 3720
    assert sum(row["failure"] == "missing_video" for row in rows) == evaluation.metrics["failed"] == 3714
    assert rows[0]["reason"] == f"{SHARED}/videos/3MSZA.mp4 does not exist"
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["samples"] == 3720 and stored["failures"]["missing_video"] == 3714
    assert stored["metrics"]["timestamp_rate"] <= 6 / 3720
