import json
import math
from dataclasses import replace

import lightning as L
import pytest
import torch
from plain_gradients import PLAIN, Watch, completions_of
from tolerances import LOG_PROBS

import taro.rl.module
from taro.data.samples import load_samples, save_samples
from taro.models.qwen_vl import QwenVL
from taro.rl.losses import policy_loss
from taro.run.records import RunRecords

pytestmark = pytest.mark.slow  # as a whole file: real runs


def test_the_gradient_is_clipped_as_a_whole(fit, arguments, uneven, steps):
    free, bound = Watch(), Watch()
    fit([*arguments, *PLAIN, "--trainer.max_steps=1"], free, steps)
    fit([*arguments, *PLAIN, "--trainer.max_steps=1", "--model.optimizer.clip_norm=0.01"], bound, steps)

    def norm(gradients):
        return float(torch.cat([value.flatten() for value in gradients.values()]).norm())

    whole = norm(free.gradients[0])
    assert whole > 0.02
    assert norm(bound.gradients[0]) == pytest.approx(0.01, rel=1e-3)
    assert steps.column("grad_norm") == pytest.approx([whole, whole], rel=1e-4)  # what is logged is the norm before
    for name, value in free.gradients[0].items():
        torch.testing.assert_close(bound.gradients[0][name], value * 0.01 / whole, atol=1e-6, rtol=1e-3)


class Rates(L.Callback):
    """The optimizer's learning rate at each update."""

    def __init__(self):
        self.rates = []

    def on_train_start(self, trainer, module):
        trainer.optimizers[0].register_step_pre_hook(lambda *_: self.rates.append(trainer.optimizers[0].param_groups[0]["lr"]))


def test_the_learning_rate_follows_the_schedule(fit, arguments, uneven, steps):
    """Over the training steps of the whole run, which has 6; both updates of a step have its rate."""
    seen = Rates()
    extra = ["--model.optimizer.learning_rate=0.01", "--model.optimizer.schedule=linear", "--model.optimizer.warmup_steps=2",
             "--model.optimizer.final_share=0.2", "--model.loss.updates=2"]  # fmt: skip
    fit([*arguments, *PLAIN, *extra], steps, seen)
    expected = [0.01 / 3, 0.02 / 3, 0.01, 0.008, 0.006, 0.004]
    assert steps.column("learning_rate") == pytest.approx(expected)
    assert seen.rates == pytest.approx([rate for rate in expected for _ in range(2)], rel=1e-12)


def test_the_learning_rate_goes_on_after_a_resume(fit, arguments, uneven, monkeypatch):
    """Where the run was, and with the learning rate that the settings have now."""
    extra = [*PLAIN, "--model.optimizer.schedule=cosine", "--trainer.limit_val_batches=0"]
    rollout = taro.rl.module.GRPOModule.rollout
    factors = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]

    class Stop(Exception):
        pass

    def stopping(module, *given):
        if module.trainer.global_step == 2:
            raise Stop
        return rollout(module, *given)

    seen = Rates()
    with pytest.raises(Stop), monkeypatch.context() as patch:
        patch.setattr("taro.rl.module.GRPOModule.rollout", stopping)
        fit([*arguments, *extra, "--model.optimizer.learning_rate=0.01"], seen)
    fit([*arguments, *extra, "--model.optimizer.learning_rate=0.02", "--ckpt_path=last"], seen)
    expected = [0.01 * factor for factor in factors[:2]] + [0.02 * factor for factor in factors[2:]]
    assert seen.rates == pytest.approx(expected, rel=1e-12)


def test_the_temporal_reward_is_paid_for_gaps_above_the_mean(fit, arguments, answering, steps):
    """Completions with the true answer and different reasoning."""
    extra = ["--curriculum.warmup_epochs=0", "--trainer.max_steps=3", "--model.temporal_reward.bonus=0.25",
             "--model.temporal_reward.tokens=response"]  # fmt: skip
    fit([*arguments, *extra], steps, answering(lambda number: True))
    for records, metrics in zip(steps.records, steps.metrics, strict=True):
        paid = []
        for group in (records[:3], records[3:]):
            gaps = [record["temporal_gap"] for record in group]
            assert all(record["iou"] > 0.99 for record in group) and len(set(gaps)) == 3
            expected = [0.25 * (gap > sum(gaps) / 3) for gap in gaps]
            assert [record["rewards"]["temporal"] for record in group] == expected
            assert 0 < sum(expected) < 0.75
            paid += expected
        assert metrics["rewards/temporal/mean"] == pytest.approx(sum(paid) / 6)
        assert metrics["reward"] == pytest.approx(sum(sum(r["rewards"].values()) for r in records) / 6)
        assert metrics["taro/temporal_gap"] == pytest.approx(sum(r["temporal_gap"] for r in records) / 6, abs=1e-6)


def test_a_step_without_a_gap_logs_none(fit, arguments, answering, steps):
    """Not the one of the step before, nor 0."""
    ask = answering(lambda number: len(steps.metrics) != 1)
    extra = ["--curriculum.warmup_epochs=0", "--trainer.max_steps=3", "--model.temporal_reward.tokens=response"]
    fit([*arguments, *extra, "--trainer.limit_val_batches=0"], steps, ask)
    gaps = steps.column("taro/temporal_gap")
    assert gaps[1] != gaps[1] and gaps[0] == gaps[0] != gaps[2] == gaps[2]
    assert steps.column("taro/gap_skipped") == [0.0, 1.0, 0.0]


def test_what_a_step_has_no_value_for_is_not_that_of_the_step_before(
    fit, arguments, uneven, steps
):
    """One step has no prompt that could be built."""

    class Hide(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 1:
                batch[:] = [replace(example, prompt=None, failure="hidden") for example in batch]

    fit([*arguments, *PLAIN, "--trainer.limit_val_batches=0", "--trainer.max_epochs=1"], steps, Hide())
    for name in ("reward", "kl", "completions/mean_length"):
        first, second, third = steps.column(name)
        assert first == first and second != second and third == third, name
    assert steps.column("data/failed") == [0.0, 2.0, 0.0]


def test_the_first_step_without_a_temporal_reward(fit, arguments, uneven, steps, tiny_builder, monkeypatch):
    """Nothing is clipped, the policy is the reference, nothing is shuffled. Tokens count those of prompts, each once, and of
    completions."""
    monkeypatch.setattr("taro.rl.module.shuffled_log_probs", None)
    fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    metrics, batch, records = steps.metrics[0], steps.batches[0], steps.records[0]
    assert metrics["clip_ratio/region_mean"] == 0 and metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert not {"rewards/temporal/mean", "taro/temporal_gap"} & metrics.keys()
    for record in records:
        assert record["temporal_gap"] is None and record["rewards"].keys() == {"format", "timestamp_iou"}
    completions = [completion for group in completions_of(batch, records, tiny_builder) for completion in group]
    tokens = sum(len(example.prompt.input_ids) for example in batch) + sum(map(len, completions))
    assert metrics["tokens_per_second"] * metrics["timing_s/step"] == pytest.approx(tokens, rel=1e-4)
    parts = {name.split("/")[1] for name in metrics if name.startswith("timing_s/")}
    assert parts == {"rollout", "reference", "update", "step"} and not any("gpu" in name for name in metrics)
    for part in ("cpu_peak_gib", "rollout/cpu_gib", "update/cpu_gib"):
        assert 0.1 < metrics[f"memory/{part}"] < 64


def with_missing_videos(synthetic, path, missing):
    """A samples file next to the videos, in which the samples with these places have a video that isn't there."""
    samples = load_samples(synthetic / "train.jsonl")
    rows = [replace(s, video=str(path.parent / "gone.mp4")) if i in missing else s for i, s in enumerate(samples)]
    save_samples(rows, path)
    return [samples[i].id for i in missing]


def test_a_missing_video_costs_one_counted_failure(fit, arguments, uneven, steps, synthetic, tmp_path):
    (lost,) = with_missing_videos(synthetic, tmp_path / "train.jsonl", [2])
    extra = [f"--data.train_file={tmp_path}/train.jsonl", "--trainer.max_epochs=1"]
    fit([*arguments, *PLAIN, *extra], steps, RunRecords(tmp_path))
    failed = steps.column("data/failed")
    assert sorted(failed) == [0.0, 0.0, 1.0]
    step = failed.index(1.0) + 1
    rows = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert [(row["step"], row["id"]) for row in rows] == [(step, lost)]
    assert rows[0]["video"].endswith("gone.mp4") and "gone.mp4" in rows[0]["reason"]
    assert [len(records) for records in steps.records] == [3 if number + 1 == step else 6 for number in range(3)]
    assert all(record["id"] != lost for records in steps.records for record in records)
    assert all(value > 0 for value in steps.column("grad_norm"))


def test_steps_in_which_every_video_is_missing(fit, arguments, uneven, steps, synthetic, tiny_folder, tmp_path):
    with_missing_videos(synthetic, tmp_path / "train.jsonl", range(6))
    extra = [f"--data.train_file={tmp_path}/train.jsonl", "--trainer.max_epochs=1", "--failure_limit.largest_share=1"]
    cli = fit([*arguments, *extra], steps)
    assert steps.column("data/failed") == [2.0] * 3
    start = QwenVL.from_pretrained(tiny_folder).state_dict()
    for name, value in cli.model.policy.state_dict().items():
        assert torch.equal(value, start[name]), name


def test_a_prompt_over_the_budget_names_the_setting(fit, arguments, uneven, steps, tmp_path):
    prompt = "--data.grounding.prompt=When does this happen: {query}?" + " Think." * 60
    extra = [prompt, "--data.grounding.max_prompt_tokens=65", "--trainer.max_steps=1", "--failure_limit.largest_share=1"]
    fit([*arguments, *PLAIN, *extra], steps, RunRecords(tmp_path))
    assert steps.column("data/failed") == [2.0]
    for line in (tmp_path / "failed.jsonl").read_text().splitlines():
        assert "65 are allowed" in json.loads(line)["reason"]
        assert "max_prompt_tokens" in json.loads(line)["reason"]


def test_completions_of_the_native_engine(fit, arguments, steps):
    """Which is the policy. Those of a random model never end in a few tokens, and are counted as cut."""
    extra = ["--curriculum.warmup_epochs=0", "--model.sampling.max_tokens=5", "--trainer.max_steps=1"]
    fit([*arguments, *PLAIN, *extra], steps)
    (metrics,) = steps.metrics
    assert metrics["completions/clipped_ratio"] == 1 and metrics["completions/mean_length"] == 5
    assert metrics["rewards/format/mean"] == 0 and not any(record["finished"] for record in steps.records[0])
    assert 0 < metrics["sampling/sampling_logp_difference/max"] < LOG_PROBS and metrics["mismatch_kl"] < 1e-9


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    fit, arguments, scripted, steps, monkeypatch, tmp_path
):
    """The first step's loss is nan: it is counted, left out and written down, the next ones update."""
    calls = []

    def sometimes_nan(*args, **kwargs):
        calls.append(1)
        output = policy_loss(*args, **kwargs)
        return replace(output, loss=output.loss * float("nan")) if len(calls) == 1 else output

    monkeypatch.setattr("taro.rl.group_loss.policy_loss", sometimes_nan)
    cli = fit([*arguments, *PLAIN, "--trainer.max_epochs=1"], steps, RunRecords(tmp_path))
    assert steps.column("skipped_steps") == [1.0, 0.0, 0.0]
    assert cli.trainer.global_step == 2
    (path,) = (tmp_path / "skipped").iterdir()
    assert path.name == "step_000001_rank0.pt"
    groups = torch.load(path, weights_only=True)
    assert [group["sample"]["id"] for group in groups] == [example.sample.id for example in steps.batches[0]]
    for group, example in zip(groups, steps.batches[0], strict=True):
        assert group["seeds"] == example.seeds and len(group["completions"]) == len(group["texts"]) == 3
        assert group["log_probs"].isfinite().all() and group["log_probs"].shape == group["ref_log_probs"].shape
    assert all(parameter.isfinite().all() for parameter in cli.model.policy.parameters())


def test_too_many_such_steps_in_a_row_stop_the_run(fit, arguments, scripted, monkeypatch):
    def nan(*args, **kwargs):
        output = policy_loss(*args, **kwargs)
        return replace(output, loss=output.loss * float("nan"))

    monkeypatch.setattr("taro.rl.group_loss.policy_loss", nan)
    with pytest.raises(FloatingPointError, match="not finite in 2 updates in a row"):
        fit([*arguments, *PLAIN, "--model.optimizer.most_skipped=2"])
