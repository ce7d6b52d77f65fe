"""What holds of every vLLM engine."""

from dataclasses import replace

import pytest
import torch

from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import pack_group
from taro.rollout import NativeEngine, PromptMismatch, RolloutEngine, RolloutPrompt, SamplingSettings


def scored(policy, prompt, group, temperature):
    """The trainer's packed log-probs, one tensor for each completion."""
    packed = pack_group(prompt.input_ids, group.completions)
    inputs = GroupInputs(prompt, packed, policy.encode_video(prompt.video.frames))
    with torch.no_grad():
        log_probs = compute_log_probs(policy, [inputs], temperature=temperature)[0].log_probs
    return [row[: len(completion)] for row, completion in zip(log_probs, group.completions, strict=True)]


def largest_difference(policy, prompts, groups, temperature=1.0, prefixes=None):
    differences = []
    for prompt, group in zip(prompts, groups, strict=True):
        for row, (own, engine) in enumerate(zip(scored(policy, prompt, group, temperature), group.log_probs, strict=True)):
            start = len(prefixes[row]) if prefixes else 0
            assert engine[:start].isnan().all() and engine[start:].isfinite().all()
            differences.append(float((own - engine)[start:].abs().max()))
    return max(differences)


def check_greedy(engine, policy, builder, prompts):
    """Its completions are those of the native engine."""
    assert isinstance(engine, RolloutEngine) and not engine.is_policy
    requests = [RolloutPrompt(prompt, ((),), (0,)) for prompt in prompts]
    sampling = SamplingSettings(temperature=0.0, max_tokens=24)
    theirs, ours = engine.generate(requests, sampling), NativeEngine(policy, builder.end_ids).generate(requests, sampling)
    for one, other in zip(theirs, ours, strict=True):
        assert one.completions[0].tolist() == other.completions[0].tolist()
        assert one.finished == other.finished
    assert len({tuple(group.completions[0].tolist()) for group in ours}) >= 3 * len(prompts) // 4


def check_stream(engine, policy, prompts, at_once, tolerance):
    """At most so many prompts are in it, each is taken only when there is room, and all are answered."""
    taken = []

    def source():
        for number, prompt in enumerate(prompts):
            taken.append(number)
            yield RolloutPrompt(prompt, ((),), (number,))

    seen = []
    for number, group in engine.stream(source(), SamplingSettings(0.0, 8), at_once):
        seen.append(number)
        assert len(taken) <= len(seen) + at_once
        assert largest_difference(policy, [prompts[number]], [group]) <= tolerance
    assert sorted(seen) == list(range(len(prompts)))


def check_ends(engine, prompt, monkeypatch):
    """Completions end where the trainer says. Any token may be an end: the one that is drawn most often here."""
    request, sampling = RolloutPrompt(prompt, ((),) * 30, tuple(range(30))), SamplingSettings(1.0, 12)
    monkeypatch.setattr(engine, "model", replace(engine.model, end_ids=frozenset()))
    (group,) = engine.generate([request], sampling)
    end = int(torch.cat(group.completions).mode().values)
    monkeypatch.setattr(engine, "model", replace(engine.model, end_ids=frozenset({end})))
    (cut,) = engine.generate([request], sampling)
    assert not any(group.finished) and 0 < sum(cut.finished) < 30
    for whole, short, finished in zip(group.completions, cut.completions, cut.finished, strict=True):
        expected = whole.tolist()
        if end in expected:
            expected = expected[: expected.index(end) + 1]
        assert short.tolist() == expected and finished == (end in expected)


def check_sync(engine, policy, changed, prompts, tolerance, caches_kept):
    """Log-probs follow a sync; and this would notice a sync, or inside `caches_kept` a reset of them, that is left out."""
    requests, sampling = [RolloutPrompt(prompt, ((),) * 2, (5, 6)) for prompt in prompts], SamplingSettings(1.0, 12)

    def difference(own):
        return largest_difference(own, prompts, engine.generate(requests, sampling))

    engine.generate(requests, sampling)  # fills the prefix cache
    assert difference(changed) > 1e-2  # stale weights
    with caches_kept:
        engine.sync(changed.model.named_parameters())
        assert difference(changed) > 1e-2  # new weights, old keys and values
    for own in (changed, policy):
        engine.sync(own.model.named_parameters())
        assert difference(own) <= tolerance


def check_mismatches(engine, prompt, monkeypatch):
    """A prompt that vLLM reads differently from the trainer is an error."""
    wrong = prompt.input_ids.clone()
    wrong[5] += 1
    with pytest.raises(PromptMismatch, match=r"the first difference is at 5: \["):
        engine.generate([RolloutPrompt(replace(prompt, input_ids=wrong), ((),), (0,))], SamplingSettings(1.0, 4))
    monkeypatch.setattr(engine, "generations", 0)
    shifted = replace(prompt, position_ids=prompt.position_ids + (torch.arange(len(prompt.input_ids)) > 20))
    with pytest.raises(PromptMismatch, match="positions: the first difference between engine and trainer is at 21"):
        engine.generate([RolloutPrompt(shifted, ((),), (0,))], SamplingSettings(1.0, 4))
