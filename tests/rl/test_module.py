import json
import math
from dataclasses import replace

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import Strategy
from tolerances import LOG_PROBS

import taro.rl.module
from taro.data.samples import load_samples, save_samples
from taro.models.qwen_vl import QwenVL
from taro.prompts import has_format, parse_answer
from taro.rl.curriculum import CurriculumCallback
from taro.rl.losses import policy_loss
from taro.rollout import EngineError
from taro.run.records import RunRecords

pytestmark = pytest.mark.slow  # as a whole file: real runs

PLAIN = ["--model.temporal_reward=null", "--model.optimizer.clip_norm=1e9"]
MEASURED = ("timing_s/", "memory/", "tokens_per_second")  # different in each run
SHORT, LONG = "</think><answer>2.0s to 9.0s</answer>", "From 1.0s to 9.0s the red square moves left\n" * 2


class Watch(L.Callback):
    """Moves the policy away from the reference before the first step; keeps gradients and weights at each update."""

    def __init__(self, noise=0.0):
        self.noise, self.gradients, self.weights = noise, [], []

    def on_train_start(self, trainer, module):
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in module.trained_parameters():
                parameter += self.noise * torch.randn(parameter.shape, generator=generator) * parameter.std().nan_to_num(1.0)
        trainer.optimizers[0].register_step_pre_hook(lambda *_: self.keep(module))

    def keep(self, module):
        named = [(name, p) for name, p in module.policy.named_parameters() if p.requires_grad]
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        self.weights.append({name: p.detach().clone() for name, p in named})


def assert_close_gradients(found, expected, tolerance=2e-4):
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 1e-6
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) < tolerance * largest, name


@pytest.fixture
def uneven(scripted, tiny_builder):
    """Completions of very different lengths: the first prompt's are short, the second's long; rewards differ."""
    encode = tiny_builder.encode
    texts = {
        (0, 0): "<think>a" + SHORT,
        (0, 1): "no",
        (0, 2): "</think><answer>0.0s to 12.0s</answer>",
        (1, 0): "<think>" + LONG + "</think><answer>1.0s to 20.0s</answer>",
        (1, 1): "\n" + LONG + SHORT,
        (1, 2): LONG,
    }
    scripted(lambda row, seed, number: [*encode(texts[number, row]), tiny_builder.eos_id])


def slow_advantages(examples, completions, builder):
    """Format and timestamp IoU rewards, relative to the group."""
    values = []
    for example, group in zip(examples, completions, strict=True):
        ((start, end),), duration = example.sample.spans, example.sample.duration
        rewards = []
        for completion in group:
            text = builder.decode(completion)
            reward, span = float(has_format(text)), parse_answer(text)
            if span is not None:
                overlap = max(0.0, min(span[1], end) - max(span[0], start))
                union = span[1] - span[0] + end - start - overlap
                near = (1 - abs(span[0] - start) / duration) * (1 - abs(span[1] - end) / duration)
                reward += overlap / union * near
            rewards.append(reward)
        rewards = torch.tensor(rewards)
        values.append((rewards - rewards.mean()) / (rewards.std() + 1e-6))
    return values


def slow_gradients(policy, reference, examples, completions, advantages, plain_log_probs, token_loss):
    """One completion at a time through transformers' whole model; the sum over tokens divided by their number."""
    tokens = sum(len(completion) for group in completions for completion in group)
    for example, group, own in zip(examples, completions, advantages, strict=True):
        for row, (completion, advantage) in enumerate(zip(group, own, strict=True)):
            log_probs = plain_log_probs(policy, example.prompt, completion)
            with torch.no_grad():
                difference = plain_log_probs(reference, example.prompt, completion) - log_probs.detach()
            # d/dx of exp(r - x) - (r - x) - 1 at the current x; 0 where that is above 10
            slope = torch.where(difference.exp() - difference - 1 > 10, 0.0, 1 - difference.exp())
            kl = (slope * log_probs).sum()
            loss = token_loss(log_probs, advantage, bool(example.prefixes[row]), (example.sample.id, row)) + 0.5 * kl
            (loss / tokens).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def policy_with(folder, weights):
    policy = QwenVL.from_pretrained(folder)
    policy.freeze_tower()
    policy.load_state_dict(weights, strict=False)
    return policy


def completions_of(batch, records, builder):
    """What the scripted engine gave, from the records."""
    texts = [record["completion"] for record in records]
    size = len(batch[0].prefixes)
    tokens = [[*builder.encode(text), builder.eos_id] for text in texts]
    return [tokens[i : i + size] for i in range(0, len(tokens), size)]


@pytest.mark.parametrize(
    ("probability", "mode"), [(1.0, "mask"), (1.0, "awr"), (0.0, "mask"), (0.5, "clone")]
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
    mapped = {"mask": lambda a: a.clamp(min=0), "awr": torch.exp, "clone": lambda a: (a > 0).float()}[mode]
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


def test_the_native_engine_is_the_policy(fit, arguments, steps):
    fit([*arguments, *PLAIN, "--trainer.max_steps=1", "--model.sampling.max_tokens=12", "--curriculum.warmup_epochs=0"], steps)
    assert 0 < steps.metrics[0]["sampling/sampling_logp_difference/max"] < LOG_PROBS
    assert steps.metrics[0]["mismatch_kl"] < 1e-9


@pytest.mark.parametrize("engine", ["native", "vllm", "vllm_server"])
def test_models_and_engines_are_made_on_the_cpu_whatever_the_default_device(fit, arguments, scripted, monkeypatch, engine):
    """Lightning makes the GPU the default one while the model is configured."""
    devices = []

    class Noting(scripted.engine):
        def __init__(self, script):
            super().__init__(script)
            devices.append(torch.empty(0).device.type)

    scripted(kind=Noting)  # native
    for name in ("VLLMEngine", "VLLMServerEngine"):
        monkeypatch.setattr(f"taro.rollout.start.{name}", lambda *_: Noting(lambda row, seed, number: [7, 8, 9]))
    monkeypatch.setattr("taro.run.checks.vllm_is_installed", lambda: True)
    monkeypatch.setattr(Strategy, "tensor_init_context", lambda self, empty_init=None: torch.device("meta"))
    server = ["--model.vllm_server.weights=folder", "--model.vllm_server.folder=nowhere"]
    cli = fit([*arguments, *PLAIN, *server, f"--model.engine={engine}", "--trainer.max_steps=1"])
    assert devices == ["cpu"]
    models = (cli.model.policy, cli.model.reference)
    assert {parameter.device.type for model in models for parameter in model.parameters()} == {"cpu"}
    assert cli.model.policy.tower is cli.model.reference.tower


def test_an_engine_that_fails_is_replaced_once(fit, arguments, scripted, steps):
    """Then the run stops, with the reason."""
    calls = []

    class Dying(scripted.engine):
        failures = 1

        def generate(self, prompts, sampling):
            calls.append("generate")
            if self.failures:
                self.failures -= 1
                raise EngineError("the worker died")
            return super().generate(prompts, sampling)

        def restart(self):
            calls.append("restart")
            self.stale = True

        def sync(self, named_parameters):
            calls.append("sync")
            self.stale = False

    scripted(kind=Dying)
    with pytest.warns(UserWarning, match="the worker died. Once more, with a fresh engine"):
        fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    assert calls == ["sync", "generate", "restart", "sync", "generate"] and len(steps.metrics) == 1
    Dying.failures = 2
    with pytest.raises(EngineError, match="the worker died"):
        fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    assert len(steps.metrics) == 1


def test_weights_are_handed_over_once_for_each_change(fit, arguments, scripted, steps):
    """For each update, and once for all batches of a validation, after which the next step has them already."""
    calls = []

    class Counting(scripted.engine):
        def generate(self, prompts, sampling):
            calls.append("train" if len(prompts[0].seeds) > 1 else "evaluate")
            return super().generate(prompts, sampling)

        def sync(self, named_parameters):
            calls.append("sync")

    scripted(kind=Counting)
    fit([*arguments, *PLAIN, "--trainer.max_steps=3", "--trainer.val_check_interval=2", "--data.evaluation_batch=1"], steps)
    evaluations = calls.count("evaluate")
    assert evaluations > 1
    assert calls == ["sync", "train"] * 2 + ["sync"] + ["evaluate"] * evaluations + ["train"]


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


@pytest.mark.parametrize("updates", [1, 2])
def test_the_learning_rate_follows_the_schedule(fit, arguments, uneven, steps, updates):
    """Over the training steps of the whole run, which has 6; all updates of a step have its rate."""
    seen = Rates()
    extra = ["--model.optimizer.learning_rate=0.01", "--model.optimizer.schedule=linear", "--model.optimizer.warmup_steps=2",
             "--model.optimizer.final_share=0.2", f"--model.loss.updates={updates}"]  # fmt: skip
    fit([*arguments, *PLAIN, *extra], steps, seen)
    expected = [0.01 / 3, 0.02 / 3, 0.01, 0.008, 0.006, 0.004]
    assert steps.column("learning_rate") == pytest.approx(expected)
    assert seen.rates == pytest.approx([rate for rate in expected for _ in range(updates)], rel=1e-12)


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


def test_the_constant_learning_rate_is_that_of_the_setting(fit, arguments, uneven, steps):
    seen = Rates()
    fit([*arguments, *PLAIN, "--trainer.max_steps=2", "--model.optimizer.learning_rate=3e-5"], steps, seen)
    assert seen.rates == [3e-5, 3e-5]


def test_memory_and_tokens_per_second_are_logged(fit, arguments, uneven, steps, tiny_builder):
    """Tokens: of prompts and completions, each prompt once."""
    fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    metrics, batch = steps.metrics[0], steps.batches[0]
    completions = completions_of(batch, steps.records[0], tiny_builder)
    tokens = sum(len(example.prompt.input_ids) for example in batch) + sum(len(c) for group in completions for c in group)
    assert metrics["tokens_per_second"] * metrics["timing_s/step"] == pytest.approx(tokens, rel=1e-4)
    assert 0.1 < metrics["memory/cpu_peak_gib"] < 64 and "memory/gpu_peak_gib" not in metrics


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_changes_no_number(fit, arguments, uneven, steps, monkeypatch, checkpointing):
    """And it is really on: the decoder runs again in the backward pass."""
    calls = []

    class Count(L.Callback):
        def on_train_start(self, trainer, module):
            layer = module.policy.decoder.layers[0].mlp
            layer.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))

    watch = Watch()
    fit([*arguments, *PLAIN, "--trainer.max_steps=1", f"--model.gradient_checkpointing={checkpointing}"], watch, Count())
    assert sum(calls) == (2 if checkpointing else 1)  # both groups in one pack
    if checkpointing:
        plain = Watch()
        fit([*arguments, *PLAIN, "--trainer.max_steps=1"], plain)
        assert_close_gradients(watch.gradients[0], plain.gradients[0], tolerance=1e-5)


def test_smaller_packs_change_no_number(fit, arguments, uneven, steps, monkeypatch):
    watch, passes = Watch(noise=0.1), []
    plan = taro.rl.passes.plan_packs
    monkeypatch.setattr("taro.rl.passes.plan_packs", lambda *given: passes.append(plan(*given)) or passes[-1])
    limits = ["--data.grounding.max_prompt_tokens=70", "--model.sampling.max_tokens=66"]
    extra = ["--trainer.max_steps=1", "--model.optimizer.clip_norm=1e9", "--model.temporal_reward.measured=all", *limits]
    fit([*arguments, *extra], watch, steps)
    fit([*arguments, *extra, "--model.pack_tokens=268"], watch, steps)
    assert passes == [[[0, 1]], [[0], [1]]]
    assert_close_gradients(watch.gradients[1], watch.gradients[0], tolerance=1e-5)
    together, alone = steps.metrics
    for name, value in together.items():
        if not name.startswith(MEASURED):
            assert alone[name] == pytest.approx(value, abs=1e-5), name
    assert together["grad_norm"] > 1e-3


def test_rollouts_are_the_same_with_gradient_checkpointing(fit, arguments, steps):
    """Decoding needs its cache."""
    for checkpointing in ("false", "true"):
        fit([*arguments, "--trainer.max_steps=2", f"--model.gradient_checkpointing={checkpointing}",
             "--model.sampling.max_tokens=12", "--curriculum.warmup_epochs=0"], steps)  # fmt: skip
    texts = [[record["completion"] for record in records] for records in steps.records]
    assert texts[:2] == texts[2:] and len(set(texts[0])) > 1


def test_kept_features_change_no_number(fit, arguments, steps, tmp_path):
    """The second epoch and the second run encode nothing for rollouts and scoring; a cut entry is made again."""
    extra = ["--model.sampling.max_tokens=12", "--model.evaluation_max_tokens=4", "--curriculum.warmup_epochs=0"]
    cached = [f"--model.feature_cache={{folder: {tmp_path}/features, max_gigabytes: 1}}"]
    fit([*arguments, *extra], steps)
    fit([*arguments, *extra, *cached], steps)
    files = sorted((tmp_path / "features").glob("**/*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-1])
    fit([*arguments, *extra, *cached], steps)
    plain, first, second = (steps.metrics[start : start + 6] for start in (0, 6, 12))
    for rows in (first, second):
        for row, expected in zip(rows, plain, strict=True):
            for name, value in expected.items():
                assert name.startswith(MEASURED) or row[name] == pytest.approx(value, abs=LOG_PROBS, nan_ok=True), name
    assert not any(name.startswith("feature_cache/") for name in plain[0])
    assert first[-1]["feature_cache/misses"] == len(files)
    assert first[-1]["feature_cache/hits"] > len(files)
    assert second[-1]["feature_cache/misses"] == 0 and second[-1]["feature_cache/torn"] == 1


def test_only_the_decoder_changes(fit, arguments, uneven, tiny_folder):
    cli = fit([*arguments, *PLAIN, "--trainer.max_steps=3", "--model.optimizer.learning_rate=1e-2"])
    start = QwenVL.from_pretrained(tiny_folder).state_dict()
    trained, reference = cli.model.policy.state_dict(), cli.model.reference.state_dict()
    assert trained.keys() == reference.keys() == start.keys()
    for name, value in start.items():
        assert torch.equal(reference[name], value)
        assert torch.equal(trained[name], value) == (".visual." in name or trained[name].numel() == 0), name
    assert not any(parameter.requires_grad for parameter in cli.model.reference.parameters())
    assert cli.model.reference.tower is cli.model.policy.tower


def test_no_reference_without_kl(fit, arguments, uneven, steps):
    cli = fit([*arguments, *PLAIN, "--trainer.max_steps=1", "--model.loss.kl_coefficient=0"], steps)
    assert cli.model.reference is None
    assert "kl" not in steps.metrics[0]


def test_without_temporal_reward_nothing_is_shuffled(fit, arguments, uneven, steps, monkeypatch):
    def never(*args):
        raise AssertionError("the shuffled video was scored")

    monkeypatch.setattr("taro.rl.module.shuffled_log_probs", never)
    fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    assert not {"rewards/temporal/mean", "taro/temporal_gap"} & steps.metrics[0].keys()
    for record in steps.records[0]:
        assert record["temporal_gap"] is None and record["rewards"].keys() == {"format", "timestamp_iou"}


@pytest.fixture
def answering(scripted, tiny_builder, synthetic):
    """Scripts completions with different reasoning, and the true answer where `right(number)` of the prompt says so, else a
    wrong one; gives the callback that knows what was asked."""
    spans = {sample.query: sample.spans[0] for sample in load_samples(synthetic / "train.jsonl")}
    reasons = ("no", "From 1.0s to 3.0s, the red square moves left", "the blue circle blinks")
    asked = []

    class Ask(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            asked[:] = [example.sample.query for example in batch]

    def install(right):
        def script(row, seed, number):
            start, end = spans[asked[number]] if right(number) else (0.0, 0.1 * row)
            text = f"<think>{reasons[row]}</think><answer>{start}s to {end}s</answer>"
            return [*tiny_builder.encode(text), tiny_builder.eos_id]

        scripted(script)
        return Ask()

    return install


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


@pytest.mark.parametrize("pack_tokens", [16384, 1])
@pytest.mark.parametrize("threshold", ["mean", "-9.0"])
def test_what_can_not_be_paid_is_not_computed(fit, arguments, answering, steps, monkeypatch, pack_tokens, threshold):
    """Rewards, weights and gradients have the same bits as with all gaps, in one pack and in packs of their own; the log
    covers the groups that were measured, and says how many were not."""
    scored, shuffled = [], taro.rl.module.shuffled_log_probs
    monkeypatch.setattr(
        "taro.rl.module.shuffled_log_probs", lambda *given: scored.append(len(given[1])) or shuffled(*given)
    )
    found = {}
    for measured in ("payable", "all"):
        watch = Watch()
        extra = ["--curriculum.warmup_epochs=0", "--trainer.max_steps=2", f"--model.temporal_reward.threshold={threshold}",
                 "--model.temporal_reward.tokens=response", f"--model.pack_tokens={pack_tokens}",
                 f"--model.temporal_reward.measured={measured}", "--model.optimizer.learning_rate=1e-3"]  # fmt: skip
        fit([*arguments, *extra], watch, steps, answering(lambda number: number == 1))
        found[measured] = watch
    one_pack = pack_tokens > 1
    assert scored == [1, 1, *((2, 2) if one_pack else (1, 1, 1, 1))]
    assert len(found["all"].gradients) == 2
    for cheap, whole in zip(found["payable"].gradients, found["all"].gradients, strict=True):
        assert cheap.keys() == whole.keys() and all(torch.equal(cheap[name], whole[name]) for name in whole)
    for cheap, whole in zip(steps.records[:2], steps.records[2:], strict=True):
        for name in ("rewards", "weight", "completion"):
            assert [record[name] for record in cheap] == [record[name] for record in whole]
        assert [record["temporal_gap"] is None for record in cheap] == [True] * 3 + [False] * 3
        assert all(record["temporal_gap"] is not None for record in whole)
        assert sum(record["rewards"]["temporal"] > 0 for record in cheap[3:]) in ((1, 2) if threshold == "mean" else (3,))
    for cheap, records in zip(steps.metrics[:2], steps.records[:2], strict=True):
        gaps = [record["temporal_gap"] for record in records[3:]]
        assert cheap["taro/temporal_gap"] == pytest.approx(sum(gaps) / 3) and cheap["taro/gap_skipped"] == 0.5
    assert steps.column("taro/gap_skipped") == [0.5, 0.5, 0.0, 0.0]


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


def test_on_policy_nothing_is_clipped_and_the_start_is_the_reference(fit, arguments, uneven, steps):
    fit([*arguments, *PLAIN, "--trainer.max_steps=1"], steps)
    assert steps.column("clip_ratio/region_mean") == [0.0]
    assert steps.column("kl") == pytest.approx([0.0], abs=1e-9)


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


def test_a_completion_that_is_cut_is_counted(fit, arguments, steps):
    """Real rollouts of a random model never end in a few tokens."""
    extra = ["--curriculum.warmup_epochs=0", "--model.sampling.max_tokens=5", "--trainer.max_steps=1"]
    fit([*arguments, *PLAIN, *extra], steps)
    assert steps.column("completions/clipped_ratio") == [1.0]
    assert steps.column("completions/mean_length") == [5.0]
    assert steps.column("rewards/format/mean") == [0.0]
    assert not any(record["finished"] for record in steps.records[0])


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
