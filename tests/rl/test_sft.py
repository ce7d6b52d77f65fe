from dataclasses import replace

import pytest
import torch
from plain_gradients import Watch, assert_close_gradients, policy_with
from torch.nn.functional import cross_entropy

from taro.data.samples import load_samples, save_samples

pytestmark = pytest.mark.slow  # as a whole file: real runs


@pytest.fixture
def supervised(arguments, traced):
    """Arguments of a run of the supervised stage, of steps of two prompts, one with a trace and one with two."""
    return [*arguments, "--stage=sft", f"--data.train_file={traced}", "--model.optimizer.clip_norm=1e9"]


@pytest.mark.parametrize("pack_tokens", [1, 16384])
def test_loss_and_gradient_are_those_of_transformers(
    fit, supervised, steps, tiny_folder, tiny_builder, plain_logits, pack_tokens
):
    """One trace at a time, the cross-entropy of all tokens of the step."""
    watch = Watch(noise=0.05)
    fit([*supervised, "--trainer.max_steps=1", f"--model.pack_tokens={pack_tokens}"], watch, steps)
    policy = policy_with(tiny_folder, watch.weights[0])
    sums, tokens = [], 0
    for example in steps.batches[0]:
        for text in example.sample.extra["traces"]:
            ids = torch.tensor([*tiny_builder.encode(text), tiny_builder.eos_id])
            logits = plain_logits(policy, example.prompt, ids)[: len(ids)]  # (C, V)
            sums.append(cross_entropy(logits, ids, reduction="sum"))
            tokens += len(ids)
    assert len(sums) == 3 and len(steps.batches[0]) == 2
    loss = torch.stack(sums).sum() / tokens
    loss.backward()
    assert steps.column("loss") == pytest.approx([float(loss.detach())], abs=1e-5)
    expected = {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert_close_gradients(watch.gradients[0], expected, tolerance=1e-4)


def test_it_learns_by_the_schedule_without_rollouts_and_reference(fit, supervised, steps):
    settings = ["--model.optimizer.learning_rate=0.01", "--model.optimizer.schedule=linear", "--model.loss.updates=3"]
    cli = fit([*supervised, *settings, "--model.advantages.scale=ema", "--model.temporal_reward=null"], steps)
    assert cli.trainer.global_step == 6 and cli.model.reference is None
    losses = steps.column("loss")
    assert losses[-1] < 0.9 * losses[0] and not any(steps.records)
    assert steps.column("learning_rate") == pytest.approx([0.01 * (6 - step) / 6 for step in range(6)])
    assert all(row["completions/mean_length"] > 10 and row["entropy"] > 0 for row in steps.metrics)
    assert not any(name.startswith(("reward", "rollout/")) for name in steps.metrics[0])


def test_a_prompt_that_cant_be_built_costs_its_traces(fit, supervised, steps, damaged, traced):
    save_samples([replace(one, extra={"traces": ["</think>"]}) for one in load_samples(damaged)], traced)
    cli = fit([*supervised, "--trainer.max_epochs=1"], steps)
    assert cli.trainer.global_step == 3 and sum(steps.column("data/failed")) == 3
