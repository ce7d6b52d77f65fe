import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eval as command
import train
from taro.data.samples import load_samples, save_samples
from taro.data.video import VideoSettings
from taro.evaluation.evaluate import print_evaluation, score_predictions
from taro.evaluation.predictions import EvaluationError
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.models.tiny.architecture import TINY_PROMPT
from taro.rl.rollout import EngineError

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
SETTINGS = GroundingSettings(TINY_PROMPT, VideoSettings(fps=1.0, max_tokens=64), 1024, None, 1024)


def read_rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def model(tiny_folder, tmp_path):
    """A model folder with the settings that it was trained with."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(tiny_folder).iterdir():
        (folder / path.name).symlink_to(path)
    SETTINGS.save(folder)
    return str(folder)


@pytest.fixture
def evaluate(model):
    def run(*arguments):
        return command.main(["--dataset=Synthetic", f"--model={model}", "--max_tokens=6", "--workers=0", *arguments])

    return run


@pytest.fixture
def damaged(synthetic, tmp_path):
    """The training samples, of which the first video is missing, the second empty, the third truncated."""
    samples = load_samples(synthetic / "train.jsonl")
    content = Path(samples[0].video).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "truncated.mp4").write_bytes(content[: len(content) // 2])
    names = ("missing.mp4", "empty.mp4", "truncated.mp4")
    rows = [replace(sample, video=str(tmp_path / name)) for sample, name in zip(samples, names, strict=False)]
    save_samples([*rows, *samples[3:]], tmp_path / "damaged.jsonl")
    return tmp_path / "damaged.jsonl"


def test_every_sample_counts(evaluate, damaged, tmp_path, capsys):
    evaluation = evaluate(f"--annotations={damaged}", f"--output={tmp_path}/out", "--batch_size=2")
    assert evaluation.metrics["samples"] == 6 and evaluation.metrics["failed"] == 3
    expected = [sample.id for sample in load_samples(damaged)]
    rows = sorted(read_rows(tmp_path / "out" / "predictions.jsonl"), key=lambda row: expected.index(row["id"]))
    assert rows == evaluation.predictions and [row["id"] for row in rows] == expected
    for row, name in zip(rows, ("missing", "empty", "truncated"), strict=False):
        assert f"{name}.mp4" in row["failure"]
        assert row["completion"] is None and row["answer"] is None and row["iou"] == 0.0
    for row in rows[3:]:
        assert row["failure"] is None and row["completion"]
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["metrics"] == evaluation.metrics and stored["dataset"] == "Synthetic"
    print_evaluation(evaluation)
    shown = capsys.readouterr().out
    assert all(f"failed: {name}: VideoError" in shown for name in expected[:3])
    assert f"no answer: {expected[3]}: ..." in shown


def test_metrics_of_known_answers():
    def row(answer, completion="<think>At 3s.</think><answer>x</answer>", failure=None):
        return {"answer": answer, "spans": [(2.0, 6.0), (10.0, 12.0)], "completion": completion, "failure": failure}

    metrics = score_predictions(
        [row((2.0, 6.0)), row((10.0, 13.0)), row(None, "no"), row(None, None, "VideoError: gone")]
    )
    assert metrics["mIoU"] == pytest.approx((1 + 2 / 3) / 4)
    assert [metrics[f"R1@{level}"] for level in (0.3, 0.5, 0.7)] == [0.5, 0.5, 0.25]
    assert metrics["parse_rate"] == 0.5 and metrics["timestamp_rate"] == 0.5
    assert metrics["samples"] == 4 and metrics["failed"] == 1


def test_all_videos_bad(evaluate, damaged, tmp_path):
    rows = [replace(sample, video=str(tmp_path / "missing.mp4")) for sample in load_samples(damaged)]
    save_samples(rows, tmp_path / "none.jsonl")
    metrics = evaluate(f"--annotations={tmp_path}/none.jsonl").metrics
    assert metrics["samples"] == metrics["failed"] == 6 and metrics["mIoU"] == 0.0


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
    assert again.predictions == whole.predictions and len(asked) == 0  # the three with videos were there
    assert len(read_rows(path)) == 6
    path.write_text("")
    assert evaluate(*arguments).predictions == whole.predictions and len(asked) == 3
    monkeypatch.setattr(QwenVL, "from_pretrained", None)  # nothing is missing: no model is loaded
    metrics = tmp_path / "out" / "metrics.json"
    before = metrics.read_text()
    assert evaluate(*arguments).predictions == whole.predictions and metrics.read_text() == before
    metrics.unlink()  # stopped after the last answer
    evaluate(*arguments)
    assert json.loads(metrics.read_text())["metrics"]["mIoU"] == whole.metrics["mIoU"]


def test_an_output_folder_holds_one_configuration(evaluate, synthetic, tmp_path):
    arguments = [f"--annotations={synthetic}/train.jsonl", f"--output={tmp_path}/out", "--limit=1"]
    evaluate(*arguments)
    with pytest.raises(EvaluationError) as error:
        evaluate(*arguments, "--grounding.video.max_tokens=32", "--repetition_penalty=1.05")
    text = str(error.value)
    assert "out holds the answers of another evaluation" in text and "- grounding: " in text
    assert "'repetition_penalty': 1.0}" in text and "'repetition_penalty': 1.05} now" in text and "- model" not in text


def test_another_model_or_other_samples_under_the_same_names(evaluate, model, synthetic, tmp_path):
    arguments = [f"--annotations={tmp_path}/rows.jsonl", f"--output={tmp_path}/out"]
    samples = load_samples(synthetic / "train.jsonl")
    save_samples(samples[:2], tmp_path / "rows.jsonl")
    evaluate(*arguments)
    weights = Path(model) / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(EvaluationError, match="- weights: "):
        evaluate(*arguments)
    save_samples([replace(samples[0], spans=((0.0, 1.0),)), samples[1]], tmp_path / "rows.jsonl")
    with pytest.raises(EvaluationError, match="- samples: "):
        evaluate(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch_size=0"], "--batch_size 0: must be at least 1"),
        (["--engine=vllm", "--device=cuda:1"], "set CUDA_VISIBLE_DEVICES, and cuda here"),
    ],
)
def test_what_can_not_be_asked_for(evaluate, arguments, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(*arguments)


def test_shards_together_are_the_whole(evaluate, synthetic, tmp_path):
    annotations = f"--annotations={synthetic}/train.jsonl"
    whole = evaluate(annotations)
    parts = [evaluate(annotations, f"--output={tmp_path}/out", f"--shard={i}/4") for i in (2, 0, 3, 1)]
    assert [len(part.predictions) for part in parts] == [1, 3, 4, 6]
    assert (tmp_path / "out" / "metrics.json").is_file()
    expected = json.loads(json.dumps(whole.predictions))
    assert json.loads(json.dumps(parts[-1].predictions)) == expected
    for name, value in whole.metrics.items():
        assert name == "seconds" or parts[-1].metrics[name] == value
    with pytest.raises(EvaluationError, match="shards: 4 there, 2 now"):
        evaluate(annotations, f"--output={tmp_path}/out", "--shard=0/2")


@pytest.mark.parametrize("shard", ["1", "2/2", "-1/2", "a/b", "0/0"])
def test_no_shard(evaluate, tmp_path, shard):
    with pytest.raises(EvaluationError, match=r"give i/n with 0 <= i < n, as in 0/8"):
        evaluate(f"--shard={shard}", f"--output={tmp_path}")
    with pytest.raises(EvaluationError, match="--shard needs --output"):
        evaluate("--shard=0/2")


def test_vllm_that_is_not_installed(evaluate, synthetic, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *given: None if name == "vllm" else find(name, *given))
    with pytest.raises(EngineError, match=r"pip install 'taro\[vllm\]'"):
        evaluate(f"--annotations={synthetic}/train.jsonl", "--engine=vllm")


@pytest.mark.parametrize("limit", [1, 3])
def test_limit(evaluate, synthetic, limit):
    evaluation = evaluate(f"--annotations={synthetic}/train.jsonl", f"--limit={limit}")
    expected = [sample.id for sample in load_samples(synthetic / "train.jsonl")][:limit]
    assert [row["id"] for row in evaluation.predictions] == expected and evaluation.metrics["samples"] == limit


def test_batches_and_workers_change_no_answer(evaluate, synthetic):
    annotations = f"--annotations={synthetic}/train.jsonl"
    first = evaluate(annotations, "--batch_size=1").predictions
    assert first == evaluate(annotations, "--batch_size=4", "--workers=1").predictions
    assert len({row["completion"] for row in first}) > 1


def test_answers_are_greedy_ones_of_the_model(evaluate, model, synthetic, tiny_builder):
    from taro.data.video import load_video
    from taro.rl.rollout import NativeEngine, RolloutPrompt, SamplingSettings

    (row,) = evaluate(f"--annotations={synthetic}/train.jsonl", "--limit=1").predictions
    sample = load_samples(synthetic / "train.jsonl")[0]
    video = load_video(sample.video, clip=None, settings=SETTINGS.video, geometry=tiny_builder.geometry)
    engine = NativeEngine(QwenVL.from_pretrained(model), tiny_builder.end_ids)
    prompt = RolloutPrompt(tiny_builder.build(sample.query, video), ((),), (0,))
    (group,) = engine.generate([prompt], SamplingSettings(temperature=0.0, max_tokens=6))
    assert row["completion"] == tiny_builder.decode(group.completions[0])


def test_settings_in_the_model_folder_are_used(evaluate, model, synthetic, tmp_path):
    """Unless others are given."""
    annotations = f"--annotations={synthetic}/train.jsonl"
    replace(SETTINGS, prompt="At which time: {query}", evaluation_max_prompt_tokens=15).save(model)
    limited = evaluate(annotations, "--limit=1", f"--output={tmp_path}/out").predictions[0]
    assert "15 are allowed" in limited["failure"]
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())["grounding"]
    assert stored["prompt"] == "At which time: {query}" and stored["video"]["max_tokens"] == 64
    given = evaluate(annotations, "--limit=1", "--grounding.video.max_tokens=64", f"--output={tmp_path}/own")
    assert given.predictions[0]["failure"] is None
    assert json.loads((tmp_path / "own" / "metrics.json").read_text())["grounding"]["prompt"] != stored["prompt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=Charade"], "--dataset Charade: unknown, allowed: Synthetic, Charades"),
        (["--annotations=nowhere.jsonl"], "nowhere.jsonl: no such samples file; name it with --annotations"),
    ],
)
def test_errors_come_before_the_model(evaluate, monkeypatch, arguments, message):
    monkeypatch.setattr(QwenVL, "from_pretrained", None)
    with pytest.raises(ValueError, match=message):
        evaluate(*arguments)


def test_an_error_is_one_line(tiny_folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, str(ROOT / "eval.py"), "--dataset=Nothing", f"--model={tiny_folder}"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: --dataset Nothing: unknown, allowed: Synthetic, Charades"


def test_a_trained_model_is_evaluated_as_in_training(arguments, synthetic, tmp_path):
    """eval.py on a run's exported model gives the metrics that the run reported."""
    test_file = f"{synthetic}/test.jsonl"
    extra = [f"--data.test_file={test_file}", "--trainer.max_steps=1", "--model.evaluation_max_tokens=6"]
    summary = train.main([*arguments, *extra])
    command_line = ["--dataset=Synthetic", f"--model={tmp_path}/run/hf", f"--annotations={test_file}", "--max_tokens=6"]
    metrics = command.main([*command_line, "--workers=0"]).metrics
    for name, value in summary["after"].items():
        assert metrics[name] == pytest.approx(value), name


@pytest.mark.skipif(
    not (SHARED / "videos" / "OHOFG.mp4").exists(), reason="the real Charades clip is not here (../shared/videos)"
)
def test_a_real_charades_video(model):
    annotations = SHARED / "annotations" / "charades_one_video.jsonl"
    evaluation = command.main(
        [
            "--dataset=Charades",
            f"--model={model}",
            f"--annotations={annotations}",
            f"--video_root={SHARED}/videos",
            "--max_tokens=4",
            "--workers=0",
        ]
    )
    assert evaluation.metrics["samples"] == 6 and evaluation.metrics["failed"] == 0
    queries = [row["query"] for row in read_rows(annotations)]
    assert [row["query"] for row in evaluation.predictions] == queries
    assert torch.tensor([row["iou"] for row in evaluation.predictions]).isfinite().all()
