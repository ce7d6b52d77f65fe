"""train.py and eval.py with vLLM."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from taro.models.settings import GroundingSettings
from taro.run import eval as command
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.load import VideoSettings


def test_training_samples_from_the_weights_of_each_step(fit, arguments, steps):
    """Constructed completions, then free ones. At a large learning rate an engine that kept older weights would be far off."""
    arguments = [*arguments, "--model.engine=vllm", "--model.sampling.max_tokens=140", "--model.optimizer.learning_rate=3e-3"]
    cli = fit([*arguments, "--curriculum.warmup_epochs=1", "--trainer.limit_val_batches=0"], steps)
    assert cli.trainer.global_step == 6 and steps.column("taro/constructed_fraction") == [1.0] * 3 + [0.0] * 3
    for metrics in steps.metrics:
        assert metrics["sampling/sampling_logp_difference/max"] < 5e-4
        assert abs(metrics["mismatch_kl"]) < 1e-8
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("taro.rollout.vllm.VLLMEngine.sync", lambda *_: None)
        with pytest.warns(UserWarning, match="nats off the policy's on average"):
            fit([*arguments, "--curriculum.warmup_epochs=2", "--trainer.max_steps=3"], steps)
    assert steps.metrics[-1]["sampling/sampling_logp_difference/max"] > 1e-2


def test_evaluation_gives_the_native_answers(tiny_folder, synthetic, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(tiny_folder).iterdir():
        (folder / path.name).symlink_to(path)
    GroundingSettings(TINY_PROMPT, VideoSettings(fps=1.0, max_tokens=64), 1024, None, 1024).save(folder)
    rows = [json.loads(line) for line in (synthetic / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["video"] = str(synthetic / row["video"])
    rows[1]["video"] = "missing.mp4"
    (tmp_path / "with_missing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for engine in ("native", "vllm"):
        found[engine] = command.main(
            [
                "--dataset=Synthetic",
                f"--model={folder}",
                f"--annotations={tmp_path}/with_missing.jsonl",
                f"--output={tmp_path}/{engine}",
                f"--engine={engine}",
                "--max_tokens=12",
                "--repetition_penalty=1.05",
                "--workers=1",
                "--batch_size=2",
            ]
        )
    native, vllm = ([replace(row, seconds=0.0) for row in found[engine].predictions] for engine in ("native", "vllm"))
    assert native == vllm
    assert all(row.seconds > 0 for row in found["vllm"].predictions if row.completion)
    assert found["vllm"].metrics["failed"] == 1 and found["vllm"].metrics["samples"] == len(rows)
    assert "missing.mp4" in found["vllm"].predictions[1].reason


def test_a_prompt_that_is_too_long_for_the_engine_costs_one_sample(tiny_folder, synthetic):
    found = command.main(
        [
            "--dataset=Synthetic",
            f"--model={tiny_folder}",
            f"--annotations={synthetic}/train.jsonl",
            "--engine=vllm",
            "--vllm.max_model_len=72",  # some of the prompts have 61 tokens
            "--max_tokens=12",
            "--workers=0",
            "--grounding.prompt=When does this happen: {query}?",
            "--grounding.evaluation_video={fps: 1.0, max_tokens: 64}",
        ]
    )
    failed = [row for row in found.predictions if row.failure == "refused_prompt"]
    assert 0 < len(failed) < len(found.predictions) and all("60 are allowed" in row.reason for row in failed)
    assert found.metrics["samples"] == len(found.predictions)
