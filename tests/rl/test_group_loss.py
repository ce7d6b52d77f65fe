from dataclasses import replace

import pytest
import torch
from plain_gradients import (
    PLAIN,
    Watch,
    assert_close_gradients,
    completions_of,
    policy_with,
    slow_advantages,
    slow_gradients,
)

import taro.rollout.start
from taro.models.qwen_vl import QwenVL
from taro.rl.curriculum import CurriculumCallback

pytestmark = pytest.mark.slow  # as a whole file: real runs


@pytest.mark.parametrize(
    ("probability", "mode"), [(1.0, "awr"), (0.0, "mask"), (0.5, "mask")]
)
def test_gradient_of_a_step(
    fit, arguments, uneven, steps, tiny_folder, tiny_builder, plain_log_probs, monkeypatch, probability, mode
):
    """Constructed completions: -A log pi over all of their tokens, the constructed ones included; free ones: -A log pi
    too, as the ratio is 1, over the unmapped A. Plus the KL to the reference; divided by all tokens of the step."""
    monkeypatch.setattr(CurriculumCallback, "probability", lambda *_: probability)
    watch = Watch(noise=0.1)
    extra = ["--trainer.max_steps=1", "--model.loss.kl_coefficient=0.5", f"--model.advantages.constructed={mode}"]
    cli = fit([*arguments, *PLAIN, *extra], watch, steps)
    batch, records = steps.batches[0], steps.records[0]
    completions = completions_of(batch, records, tiny_builder)
    constructed = [bool(prefix) for example in batch for prefix in example.prefixes]
    assert {0.0: not any(constructed), 1.0: all(constructed), 0.5: len(set(constructed)) == 2}[probability]
    assert [record["constructed"] for record in records] == constructed
    for example, group in zip(batch, completions, strict=True):
        for prefix, completion in zip(example.prefixes, group, strict=True):
            assert tuple(completion[: len(prefix)]) == prefix and (not prefix or len(prefix) > 10)
    lengths = [sum(map(len, group)) for group in completions]
    assert max(lengths) > 1.5 * min(lengths)

    free = slow_advantages(batch, completions, tiny_builder)
    mapped = {"mask": lambda a: a.clamp(min=0), "awr": torch.exp}[mode]
    advantages = [
        torch.tensor([float(mapped(a)) if prefix else float(a) for a, prefix in zip(own, example.prefixes, strict=True)])
        for own, example in zip(free, batch, strict=True)
    ]
    assert torch.tensor([record["weight"] for record in records]) == pytest.approx(torch.cat(advantages), abs=1e-4)
    policy = policy_with(tiny_folder, watch.weights[0])
    expected = slow_gradients(
        policy, QwenVL.from_pretrained(tiny_folder), batch, completions, advantages, plain_log_probs,
        lambda log_probs, advantage, *_: -advantage * log_probs.sum(),
    )  # fmt: skip
    assert_close_gradients(watch.gradients[0], expected)
    assert len(watch.gradients) == 1 and steps.column("kl")[0] > 1e-3
    assert cli.trainer.global_step == 1


@pytest.mark.parametrize("constructed", [False, True])
def test_a_second_update_has_a_ratio(
    fit, arguments, uneven, steps, tiny_folder, tiny_builder, plain_log_probs, constructed
):
    """It keeps the log-probs from before the first update; its gradient is that of the clipped surrogate. Constructed
    completions have no ratio: -A log pi again."""
    watch = Watch(noise=0.1)
    extra = ["--trainer.max_steps=2", "--model.loss.kl_coefficient=0.5", "--model.loss.updates=2",
             f"--curriculum.warmup_epochs={int(constructed)}", "--model.optimizer.learning_rate=3e-3"]  # fmt: skip
    cli = fit([*arguments, *PLAIN, *extra], watch, steps)
    assert len(watch.gradients) == 2 == cli.trainer.global_step and len(steps.metrics) == 1
    batch, records = steps.batches[0], steps.records[0]
    completions = completions_of(batch, records, tiny_builder)
    advantages = slow_advantages(batch, completions, tiny_builder)
    if constructed:
        advantages = [own.clamp(min=0) for own in advantages]
    old_policy = policy_with(tiny_folder, watch.weights[0])
    with torch.no_grad():
        old = {
            (example.sample.id, row): plain_log_probs(old_policy, example.prompt, completion)
            for example, group in zip(batch, completions, strict=True)
            for row, completion in enumerate(group)
        }
    cut = []

    def token_loss(log_probs, advantage, constructed, key):
        if constructed:
            return -advantage * log_probs.sum()
        ratio = (log_probs - old[key]).exp()
        cut.append((ratio.detach() > 1.2) if advantage > 0 else (ratio.detach() < 0.8))
        assert (ratio - 1).abs().max() > 0.1
        surrogate = torch.minimum(advantage * ratio, advantage * ratio.clamp(0.8, 1.2))
        return -(torch.maximum(surrogate, 3.0 * advantage) if advantage < 0 else surrogate).sum()

    policy = policy_with(tiny_folder, watch.weights[1])
    reference = QwenVL.from_pretrained(tiny_folder)
    expected = slow_gradients(policy, reference, batch, completions, advantages, plain_log_probs, token_loss)
    assert_close_gradients(watch.gradients[1], expected, tolerance=2e-3)
    share = 0.0 if constructed else float(torch.cat(cut).float().mean())  # nothing is cut in the first update
    assert constructed or share > 0.02
    assert steps.column("clip_ratio/region_mean") == pytest.approx([share / 2], rel=0.05)


def engine_log_prob(number, row, place):
    """An engine far from the policy; one token without probability."""
    return float("-inf") if (number, row, place) == (0, 0, 3) else -1.0 - (7 * number + 3 * row + place) % 11


def other_engine(base):
    class OtherEngine(base):
        """Samples from other probabilities than the policy's."""

        is_policy = False

        def generate(self, prompts, sampling):
            groups = super().generate(prompts, sampling)
            for number, (group, prompt) in enumerate(zip(groups, prompts, strict=True)):
                rows = []
                for row, (tokens, prefix) in enumerate(zip(group.completions, prompt.prefixes, strict=True)):
                    drawn = [engine_log_prob(number, row, place) for place in range(len(prefix), len(tokens))]
                    rows.append(torch.tensor([float("nan")] * len(prefix) + drawn))
                groups[number] = replace(group, log_probs=tuple(rows))
            return groups

    return OtherEngine


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_tokens_of_another_engine_are_weighted(
    fit, arguments, scripted, uneven, steps, tiny_folder, tiny_builder, plain_log_probs, monkeypatch, probability
):
    """By min(policy / engine, 2), in free completions; the one without probability leaves numerator and denominator."""
    script = taro.rollout.start.NativeEngine().script
    scripted(script, other_engine(scripted.engine))
    monkeypatch.setattr(CurriculumCallback, "probability", lambda *_: probability)
    watch = Watch(noise=0.1)
    with pytest.warns(UserWarning, match="nats off the policy's on average, more than 0.02"):
        fit([*arguments, *PLAIN, "--trainer.max_steps=1", "--model.loss.kl_coefficient=0.5"], watch, steps)
    batch, records = steps.batches[0], steps.records[0]
    completions = completions_of(batch, records, tiny_builder)
    weights = [record["weight"] for record in records]
    policy, reference = policy_with(tiny_folder, watch.weights[0]), QwenVL.from_pretrained(tiny_folder)
    terms, count, differences = [], 0, []
    for number, (example, group) in enumerate(zip(batch, completions, strict=True)):
        for row, completion in enumerate(group):
            log_probs = plain_log_probs(policy, example.prompt, completion)
            ref = plain_log_probs(reference, example.prompt, completion).detach()
            for place, value in enumerate(log_probs):
                engine = engine_log_prob(number, row, place)
                sampled = place >= len(example.prefixes[row])
                if sampled and engine == float("-inf"):
                    continue
                count += 1
                difference = value.detach() - engine
                importance = difference.exp().clamp(max=2.0) if sampled and not probability else 1.0
                differences += [float(difference)] if sampled else []
                kl = (1 - (ref[place] - value.detach()).exp()) * value
                terms.append(-weights[3 * number + row] * importance * value + 0.5 * kl)
    (sum(terms) / count).backward()
    expected = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    assert_close_gradients(watch.gradients[0], expected)
    differences = torch.tensor(differences, dtype=torch.float64)
    metrics = steps.metrics[0]
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(float(differences.abs().mean()), rel=1e-4)
    assert metrics["sampling/sampling_logp_difference/max"] == pytest.approx(float(differences.abs().max()), rel=1e-4)
    assert metrics["mismatch_kl"] == pytest.approx(float((differences.exp() - 1 - differences).mean()), rel=1e-3)


def test_no_reference_without_kl(fit, arguments, uneven, steps):
    cli = fit([*arguments, *PLAIN, "--trainer.max_steps=1", "--model.loss.kl_coefficient=0"], steps)
    assert cli.model.reference is None
    assert "kl" not in steps.metrics[0]
