import time
from dataclasses import replace
from unittest import mock

import pytest
import torch
from engine_checks import check_ends, check_greedy, check_mismatches, check_stream, check_sync, largest_difference
from tolerances import LOG_PROBS

from taro.rollout import EngineError, NativeEngine, RolloutPrompt, SamplingSettings, VLLMEngine


def test_greedy_completions_are_those_of_the_native_engine(engine, policy, builder, many_prompts):
    check_greedy(engine, policy, builder, many_prompts)


def test_the_repetition_penalty_is_the_native_engines(engine, policy, builder, many_prompts):
    requests = [RolloutPrompt(prompt, ((),), (0,)) for prompt in many_prompts[:8]]
    plain, penalised = (SamplingSettings(0.0, 24, repetition_penalty=penalty) for penalty in (1.0, 1.3))
    theirs, ours = engine.generate(requests, penalised), NativeEngine(policy, builder.end_ids).generate(requests, penalised)
    texts = [[group.completions[0].tolist() for group in groups] for groups in (theirs, ours)]
    assert texts[0] == texts[1]
    assert texts[0] != [group.completions[0].tolist() for group in engine.generate(requests, plain)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_the_trainers(engine, policy, many_prompts, temperature):
    requests = [RolloutPrompt(prompt, ((),) * 4, (1, 2, 3, 2)) for prompt in many_prompts[:6]]
    groups = engine.generate(requests, SamplingSettings(temperature, max_tokens=20))
    assert largest_difference(policy, many_prompts[:6], groups, temperature) <= LOG_PROBS
    for group in groups:
        first, second, _, again = (completion.tolist() for completion in group.completions)
        assert second == again and first != second


def test_sampling_follows_the_probabilities(engine, policy, many_prompts):
    """First tokens of many samples against the policy's distribution; vision tokens never."""
    prompt, count = many_prompts[0], 400
    (group,) = engine.generate([RolloutPrompt(prompt, ((),) * count, tuple(range(count)))], SamplingSettings(1.0, 1))
    drawn = torch.bincount(torch.cat(group.completions), minlength=1)
    with torch.no_grad():
        hidden = policy.hidden_states(
            prompt.input_ids[None],
            prompt.position_ids[:, None],
            features=policy.encode_video(prompt.video.frames),
            video_mask=prompt.video_mask[None],
        )
        expected = torch.softmax(policy.logits(hidden[0, -1]), -1) * count
    top = expected.topk(5).indices
    for token in top.tolist():
        got = int(drawn[token]) if token < len(drawn) else 0
        assert abs(got - float(expected[token])) < 5 * float(expected[token]) ** 0.5 + 1
    assert not set(torch.cat(group.completions).tolist()) & set(policy.suppressed_ids.tolist())


def test_constructed_prefixes(engine, policy, builder, many_prompts):
    prefixes = ((), tuple(builder.encode("<think>\nFrom 1.0s to 3.0s, the red square moves left")), tuple(builder.encode("no")))
    requests = [RolloutPrompt(prompt, prefixes, (1, 2, 3)) for prompt in many_prompts[:3]]
    groups = engine.generate(requests, SamplingSettings(1.0, max_tokens=40))
    for group in groups:
        for prefix, completion in zip(prefixes, group.completions, strict=True):
            assert tuple(completion[: len(prefix)].tolist()) == prefix and len(prefix) < len(completion) <= 40
    assert largest_difference(policy, many_prompts[:3], groups, prefixes=prefixes) <= LOG_PROBS
    with pytest.raises(ValueError, match="leaves no room after it"):
        engine.generate(requests, SamplingSettings(1.0, max_tokens=len(prefixes[1])))


def test_completions_end_where_the_trainer_says(engine, many_prompts, monkeypatch):
    check_ends(engine, many_prompts[0], monkeypatch)


def test_log_probs_follow_a_sync(engine, policy, changed_policy, long_prompts):
    kept = mock.patch.object(engine.llm, "reset_prefix_cache", lambda: True)
    check_sync(engine, policy, changed_policy, long_prompts, LOG_PROBS, kept)


def test_the_features_follow_a_sync_of_the_tower(engine, policy, own_policy, many_prompts, monkeypatch):
    """A tower is trained by nobody yet; its features must not outlive it all the same."""
    requests = [RolloutPrompt(many_prompts[0], ((),), (5,))]
    engine.generate(requests, SamplingSettings(1.0, 12))
    with torch.no_grad():
        for parameter in own_policy.tower.parameters():
            parameter *= 1.1
    engine.sync(own_policy.model.named_parameters())
    groups = engine.generate(requests, SamplingSettings(1.0, 12))
    assert largest_difference(own_policy, many_prompts[:1], groups) <= LOG_PROBS
    assert largest_difference(policy, many_prompts[:1], groups) > 1e-3


def test_a_stream_is_continuous(engine, policy, many_prompts):
    check_stream(engine, policy, many_prompts, 3, LOG_PROBS)


def test_a_stream_that_is_given_up_leaves_nothing_behind(engine, many_prompts):
    requests = [RolloutPrompt(prompt, ((),), (0,)) for prompt in many_prompts[:4]]
    stream = engine.stream(iter(requests), SamplingSettings(0.0, 8), at_once=4)
    next(stream)
    stream.close()
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert len(engine.generate(requests, SamplingSettings(0.0, 3))) == 4


def test_a_failure_is_an_engine_error(engine, many_prompts, monkeypatch):
    requests = [RolloutPrompt(many_prompts[0], ((),), (0,))]

    def die():
        raise RuntimeError("the worker died")

    with monkeypatch.context() as patched:
        patched.setattr(engine.llm.llm_engine, "step", die)
        with pytest.raises(EngineError, match="RuntimeError: the worker died"):
            engine.generate(requests, SamplingSettings(1.0, 4))
    assert engine.generate(requests, SamplingSettings(1.0, 4))


def test_an_error_of_the_source_is_not_vllms(engine, many_prompts):
    def source():
        yield RolloutPrompt(many_prompts[0], ((),), (0,))
        raise ImportError("no decoder")

    with pytest.raises(ImportError, match="no decoder"):
        list(engine.stream(source(), SamplingSettings(1.0, 4), at_once=2))
    assert not engine.llm.llm_engine.has_unfinished_requests()


def test_a_group_that_is_refused_halfway_leaves_nothing_behind(engine, engine_model, many_prompts):
    """Its second prefix is longer than the model takes."""
    long = RolloutPrompt(many_prompts[0], ((), (5,) * engine_model.max_model_len), (1, 2))
    with pytest.raises(EngineError, match="longer than the maximum model length"):
        engine.generate([long], SamplingSettings(1.0, 2 * engine_model.max_model_len))
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert engine.generate([RolloutPrompt(many_prompts[0], ((),), (0,))], SamplingSettings(1.0, 4))


def test_every_generation_is_checked_where_that_is_asked_for(engine, many_prompts, monkeypatch):
    checked = []
    monkeypatch.setattr(engine, "settings", replace(engine.settings, check_every=1))
    positions = engine.reader._positions
    monkeypatch.setattr(engine.reader, "_positions", lambda *asked: checked.append(1) or positions(*asked))
    for _ in range(3):
        engine.generate([RolloutPrompt(many_prompts[0], ((),), (0,))], SamplingSettings(1.0, 2))
    assert len(checked) == 3


def test_an_engine_without_weights_refuses(engine, many_prompts, monkeypatch):
    monkeypatch.setattr(engine, "stale", True)
    with pytest.raises(EngineError, match="sync them after it slept or was restarted"):
        engine.generate([RolloutPrompt(many_prompts[0], ((),), (0,))], SamplingSettings(1.0, 4))


def test_a_prompt_that_is_read_differently_is_an_error(engine, many_prompts, monkeypatch):
    check_mismatches(engine, many_prompts[0], monkeypatch)
    assert not engine.llm.llm_engine.has_unfinished_requests()


@pytest.mark.parametrize("meanwhile", [True, False])
def test_completions_are_the_same_whenever_prompts_are_rendered(engine, many_prompts, monkeypatch, meanwhile):
    """And in the order of the prompts; the engine begins with those that are there."""
    read, step, open_then = engine.reader.read, engine.llm.llm_engine.step, []
    requests = [RolloutPrompt(prompt, ((),) * 2, (3, 4)) for prompt in many_prompts[:5]]
    together = engine.generate(requests, SamplingSettings(1.0, 12))

    def slow(prompt, whole):
        time.sleep(0.3)
        return read(prompt, whole)

    def noting_step():
        open_then.append(engine.llm.llm_engine.get_num_unfinished_requests())
        return step()

    monkeypatch.setattr(engine, "settings", replace(engine.settings, render_meanwhile=meanwhile))
    monkeypatch.setattr(engine.reader, "read", slow)
    monkeypatch.setattr(engine.llm.llm_engine, "step", noting_step)
    for one, other in zip(engine.generate(requests, SamplingSettings(1.0, 12)), together, strict=True):
        for tokens, same, a, b in zip(one.completions, other.completions, one.log_probs, other.log_probs, strict=True):
            assert torch.equal(tokens, same)
            torch.testing.assert_close(a, b, atol=LOG_PROBS, rtol=0)
    assert (open_then[0] < 10) == meanwhile


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_a_restart(engine, policy, many_prompts, monkeypatch, load_format):
    """Whatever weights the fresh engine begins with, the next sync's are its own, those of the tower, too."""
    monkeypatch.setattr(engine, "settings", replace(engine.settings, load_format=load_format))
    requests = [RolloutPrompt(many_prompts[0], ((),), (0,))]
    before = engine.generate(requests, SamplingSettings(0.0, 8))[0].completions[0]
    engine.restart()
    engine.sync(policy.model.named_parameters())
    assert torch.equal(engine.generate(requests, SamplingSettings(0.0, 8))[0].completions[0], before)


def test_a_model_that_can_not_be_loaded(engine_model, tmp_path):
    with pytest.raises(EngineError, match="vLLM can't run"):
        VLLMEngine(replace(engine_model, name_or_path=str(tmp_path)))
