import math
from dataclasses import replace

import pytest
import torch
from tolerances import LOG_PROBS

from taro.models.families import PLACEHOLDERS
from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import pack_group
from taro.models.qwen_vl import QwenVL
from taro.rollout import NativeEngine, RolloutEngine, RolloutPrompt, SamplingSettings, native
from taro.video.geometry import frames_to_patches

NEVER = -1  # an end token that is never drawn
PREFIXES = ((5, 6, 7), (), (8,), (9, 10, 11, 12, 13))


def request(prompt, seeds=(0,), prefixes=None):
    return RolloutPrompt(prompt, prefixes or ((),) * len(seeds), tuple(seeds))


def generate(policy, requests, *, eos=NEVER, rows=128, **sampling):
    return NativeEngine(policy, eos if isinstance(eos, set) else {eos}, rows).generate(requests, SamplingSettings(**sampling))


def tokens(groups):
    return [[completion.tolist() for completion in group.completions] for group in groups]


def teacher_forced(policy, prompt, completions, temperature=1.0):
    features = policy.encode_video(prompt.video.frames)
    group = pack_group(prompt.input_ids, completions)
    return compute_log_probs(policy, [GroupInputs(prompt, group, features)], temperature=temperature)[0].log_probs


def assert_equal_to_teacher_forcing(policy, prompt, group, temperature, prefixes):
    expected = teacher_forced(policy, prompt, group.completions, temperature)
    for row, log_probs, prefix in zip(expected, group.log_probs, prefixes, strict=True):
        assert log_probs.dtype == torch.float32
        assert log_probs[: len(prefix)].isnan().all()
        drawn = slice(len(prefix), len(log_probs))
        torch.testing.assert_close(log_probs[drawn], row[drawn], atol=LOG_PROBS, rtol=0)


def test_it_is_a_rollout_engine(policy):
    engine = NativeEngine(policy, [NEVER])
    assert isinstance(engine, RolloutEngine)
    assert engine.sync(policy.named_parameters()) is None
    assert engine.generate([], SamplingSettings()) == []


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_teacher_forcing(policy, prompts, temperature):
    requests = [request(prompt, range(10 * k, 10 * k + 3)) for k, prompt in enumerate(prompts)]
    groups = generate(policy, requests, temperature=temperature, max_tokens=12)
    for prompt, group in zip(prompts, groups, strict=True):
        assert [len(completion) for completion in group.completions] == [12] * 3
        assert group.finished == (False,) * 3
        assert_equal_to_teacher_forcing(policy, prompt, group, temperature, ((),) * 3)


def test_a_group_is_followed_token_by_token(policy, prompts):
    one, sampling = request(prompts[0], (1, 2), ((5, 6), ())), SamplingSettings(max_tokens=6)
    engine = NativeEngine(policy, [NEVER])
    steps = list(engine.follow(one, sampling))
    (whole,) = engine.generate([one], sampling)
    lengths = [[len(completion) for completion in group.completions] for group in steps]
    assert lengths == [[min(2 + k, 6), k] for k in range(1, 7)]
    assert tokens(steps[-1:]) == tokens([whole]) and torch.is_grad_enabled()
    eos = whole.completions[1][2].item()
    *_, last = NativeEngine(policy, [eos]).follow(one, sampling)
    assert last.completions[1].tolist() == whole.completions[1][:3].tolist() and last.finished[1]


def test_seeds_decide_the_completion(policy, prompts):
    """A longer limit only goes on."""
    [[a, b, again, c]] = tokens(generate(policy, [request(prompts[0], (1, 2, 1, 3))], max_tokens=8))
    assert a == again
    assert len({tuple(a), tuple(b), tuple(c)}) == 3
    [long] = tokens(generate(policy, [request(prompts[0], (1, 2))], max_tokens=20))
    assert [completion[:8] for completion in long] == [a, b]


@pytest.mark.slow
def test_completions_do_not_depend_on_the_rest_of_the_batch(policy, prompts):
    """Where rows end early and leave the batch, too."""
    seeds = [(1, 2, 3), (4, 5), (6, 7, 8, 9), (10,)]
    requests = [request(prompt, own) for prompt, own in zip(prompts, seeds, strict=True)]
    eos = tokens(generate(policy, requests[:1], max_tokens=8))[0][1][2]
    settings = {"eos": eos, "max_tokens": 16}
    together = generate(policy, requests, **settings)
    alone = [generate(policy, [one], **settings)[0] for one in requests]
    backwards = generate(policy, requests[::-1], **settings)[::-1]
    one_each = [
        [generate(policy, [request(r.prompt, (seed,))], **settings)[0].completions[0].tolist() for seed in r.seeds]
        for r in requests
    ]
    assert tokens(together) == tokens(alone) == tokens(backwards) == one_each
    for limit in (1, 4):
        assert tokens(generate(policy, requests, rows=limit, **settings)) == tokens(together)
    for one, other in zip(together, alone, strict=True):
        assert one.finished == other.finished
        for a, b in zip(one.log_probs, other.log_probs, strict=True):
            torch.testing.assert_close(a, b, atol=LOG_PROBS, rtol=0)


@pytest.mark.slow
def test_an_end_token_ends_and_finished_rows_leave_the_batch(policy, prompts, monkeypatch):
    requests = [request(prompt, range(5 * k, 5 * k + 5)) for k, prompt in enumerate(prompts)]
    free = generate(policy, requests, max_tokens=24)
    flat = [completion.tolist() for group in free for completion in group.completions]
    often = sorted(range(300), key=lambda token: -sum(token in completion for completion in flat))
    eos = set(often[:3])
    assert 6 <= sum(bool(eos & set(completion)) for completion in flat) < len(flat)
    widths, forward = [], policy.hidden_states
    monkeypatch.setattr(policy, "hidden_states", lambda ids, *a, **k: widths.append(ids.shape) or forward(ids, *a, **k))
    ended = generate(policy, requests, eos=eos, max_tokens=24)
    for whole, cut, prompt in zip(free, ended, prompts, strict=True):
        for all_tokens, completion, finished in zip(tokens([whole])[0], tokens([cut])[0], cut.finished, strict=True):
            end = min([all_tokens.index(token) + 1 for token in eos if token in all_tokens], default=24)
            assert completion == all_tokens[:end]
            assert finished == bool(eos & set(all_tokens))
        monkeypatch.setattr(policy, "hidden_states", forward)
        assert_equal_to_teacher_forcing(policy, prompt, cut, 1.0, ((),) * 5)
    decoded = [rows for rows, length in widths if length == 1]
    assert decoded[0] == 20 and decoded[-1] < 20 and decoded == sorted(decoded, reverse=True)


def test_decoding_stops_when_all_rows_are_finished(policy, prompts, monkeypatch):
    first = tokens(generate(policy, [request(prompts[0], (3,))], max_tokens=4))[0][0]
    calls, forward = [], policy.hidden_states
    monkeypatch.setattr(policy, "hidden_states", lambda *a, **k: calls.append(1) or forward(*a, **k))
    [group] = generate(policy, [request(prompts[0], (3,))], eos=first[1], max_tokens=400)
    assert group.completions[0].tolist() == first[: first.index(first[1]) + 1]
    assert group.finished == (True,)
    assert len(calls) == first.index(first[1]) + 1  # the prompt, and each token but the last


def test_finished_on_the_very_last_token(policy, prompts):
    [[completion]] = tokens(generate(policy, [request(prompts[0])], max_tokens=6))
    last = completion[5]
    end = completion.index(last) + 1
    [group] = generate(policy, [request(prompts[0])], eos=last, max_tokens=end)
    assert group.finished == (True,) and len(group.completions[0]) == end


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_constructed_prefixes(policy, prompts, temperature):
    requests = [request(prompts[0], range(4), PREFIXES), request(prompts[1], range(4, 8), PREFIXES[::-1])]
    groups = generate(policy, requests, temperature=temperature, max_tokens=9)
    for one, group in zip(requests, groups, strict=True):
        for prefix, completion in zip(one.prefixes, group.completions, strict=True):
            assert tuple(completion.tolist())[: len(prefix)] == prefix
            assert len(completion) == 9
        assert_equal_to_teacher_forcing(policy, one.prompt, group, temperature or 1.0, one.prefixes)


def test_prefixes_are_read_in_one_pass(policy, prompts, monkeypatch):
    """In one for each length where layers are recurrent: a state does not leave out padding."""
    shapes, forward = [], policy.hidden_states
    monkeypatch.setattr(policy, "hidden_states", lambda ids, *a, **k: shapes.append(tuple(ids.shape)) or forward(ids, *a, **k))
    generate(policy, [request(prompts[0], (0, 1), ((5, 6, 7), (5,)))], max_tokens=5)
    read = [(2, 2), (2, 1)] if policy.family.recurrent else [(2, 3)]
    assert shapes[1:] == [*read, (2, 1), (1, 1), (1, 1)]  # the shorter prefix leaves more to be drawn


def test_prefixes_of_many_tokens_are_read_some_columns_at_a_time(policy, prompts, monkeypatch):
    """The same in other blocks, and every row has all of its prefix before it."""
    requests = [request(prompts[0], range(4), PREFIXES), request(prompts[1], range(4, 8), PREFIXES[::-1])]
    whole = generate(policy, requests, max_tokens=9)
    monkeypatch.setattr(native, "PREFIX_TOKENS", 16)
    shapes, forward = [], policy.hidden_states
    with monkeypatch.context() as patched:
        patched.setattr(policy, "hidden_states", lambda ids, *a, **k: shapes.append(tuple(ids.shape)) or forward(ids, *a, **k))
        groups = generate(policy, requests, max_tokens=9)
    assert shapes[2:5] == [(8, 2), (8, 2), (8, 1)] and tokens(groups) == tokens(whole)
    for one, group in zip(requests, groups, strict=True):
        assert_equal_to_teacher_forcing(policy, one.prompt, group, 1.0, one.prefixes)
    monkeypatch.setattr(native, "PREFIX_TOKENS", 1)  # fewer than rows
    assert tokens(generate(policy, requests, max_tokens=9)) == tokens(whole)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1.3, 0.6])
def test_a_repetition_penalty_is_that_of_a_slow_loop(policy, prompts, plain_logits, penalty):
    """Of all tokens of the prompt, of the prefix and of the completion so far, once each; rows of other lengths beside it."""
    prefixes = ((5, 6, 7), (), (8,))
    requests = [request(prompt, (0, 1, 2), prefixes) for prompt in prompts[:2]]
    groups = generate(policy, requests, temperature=0.0, max_tokens=8, repetition_penalty=penalty)
    for one, group in zip(requests, groups, strict=True):
        for prefix, completion, log_probs in zip(prefixes, group.completions, group.log_probs, strict=True):
            row = list(prefix)
            while len(row) < 8:
                logits = plain_logits(policy, one.prompt, row)[-1].clone()
                for token in {*one.prompt.input_ids.tolist(), *row}:
                    logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
                row.append(int(logits.argmax()))
                expected = float(torch.log_softmax(logits, dim=-1)[row[-1]])
                assert float(log_probs[len(row) - 1]) == pytest.approx(expected, abs=LOG_PROBS)
            assert completion.tolist() == row


def test_an_end_token_within_a_prefix_does_not_end(policy, prompts):
    [group] = generate(policy, [request(prompts[0], (0,), ((5, 6, 7),))], eos=6, max_tokens=5)
    assert group.completions[0].tolist()[:3] == [5, 6, 7]
    assert len(group.completions[0]) > 3


@pytest.mark.parametrize("length", [6, 7])
def test_a_prefix_without_room_after_it_is_refused(policy, prompts, length):
    requests = [request(prompts[0]), request(prompts[0], (0, 1), ((), tuple(range(length))))]
    with pytest.raises(
        ValueError, match=f"prompt 1 .* prefix of {length} tokens, sampling.max_tokens = 6 leaves no room"
    ):
        generate(policy, requests, max_tokens=6)
    generate(policy, [request(prompts[0], (0,), (tuple(range(5)),))], max_tokens=6)


@pytest.mark.slow
def test_the_attention_changes_no_token(model_folder, policy, prompts):
    """With transformers' own each row has a copy of its prompt's keys and values."""
    own = QwenVL.from_pretrained(model_folder, attention="sdpa")
    constructed = RolloutPrompt(prompts[0], ((), (5, 6, 7), (9,)), (1, 2, 3))
    requests = [constructed, request(prompts[1], (4, 5)), request(prompts[2], (6,))]
    ours, theirs = (generate(one, requests, eos=set(range(0, 300, 9)), max_tokens=24) for one in (policy, own))
    assert tokens(ours) == tokens(theirs) and len({len(row) for group in tokens(ours) for row in group}) > 3
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.cat(a.log_probs), torch.cat(b.log_probs), atol=LOG_PROBS, rtol=0, equal_nan=True)


@pytest.mark.slow
def test_greedy_tokens_are_those_of_transformers_generate(policy, prompts):
    """Seeds don't matter, and log-probs are those at temperature one."""
    groups = generate(policy, [request(prompt, (1, 2)) for prompt in prompts], temperature=0.0, max_tokens=16)
    for prompt, group in zip(prompts, groups, strict=True):
        frames, length = prompt.video.frames, len(prompt.input_ids)
        output = policy.model.generate(
            input_ids=prompt.input_ids[None],
            attention_mask=torch.ones(1, length, dtype=torch.long),
            position_ids=prompt.position_ids[:, None],
            pixel_values_videos=frames_to_patches(frames, policy.geometry),
            video_grid_thw=torch.tensor([policy.geometry.grid(frames.shape)]),
            suppress_tokens=policy.suppressed_ids.tolist(),
            do_sample=False,
            max_new_tokens=16,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert output[0, length:].tolist() == group.completions[0].tolist() == group.completions[1].tolist()
        assert_equal_to_teacher_forcing(policy, prompt, group, 1.0, ((), ()))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_as_often_as_the_policy_says(policy, prompts, plain_logits, temperature):
    count = 1500
    groups = []
    for start in range(0, count, 500):
        seeds = range(start, start + 500)
        groups += generate(policy, [request(prompts[1], seeds)], temperature=temperature, max_tokens=1)
    drawn = torch.cat([completion for group in groups for completion in group.completions])
    seen = torch.bincount(drawn, minlength=plain_logits(policy, prompts[1], []).shape[-1]).double()
    p = torch.softmax(plain_logits(policy, prompts[1], [])[0].double() / temperature, dim=-1)
    often = p > 8 / count
    assert often.sum() > 3
    expected = torch.cat([p[often], p[~often].sum()[None]]) * count
    observed = torch.cat([seen[often], seen[~often].sum()[None]])
    chi_square, freedom = float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)
    assert seen[p == 0].sum() == 0


def test_vision_tokens_are_never_drawn(own_policy, prompts, builder):
    """Even where they would be the likeliest by far."""
    vision = builder.tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
    own_policy.requires_grad_(False)
    head = torch.nn.Linear(own_policy.model.lm_head.in_features, own_policy.model.lm_head.out_features)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[vision] = 50.0
    own_policy.model.lm_head = head
    for temperature in (1.0, 0.0):
        [group] = generate(own_policy, [request(prompts[0], range(40))], temperature=temperature, max_tokens=4)
        assert not set(torch.cat(group.completions).tolist()) & set(vision)
        assert torch.cat(group.log_probs).isfinite().all()


def test_given_features_are_used(policy, prompts, monkeypatch):
    prompt = prompts[0]
    features = policy.encode_video(prompt.video.frames)
    expected = tokens(generate(policy, [request(prompt, (1, 2))], max_tokens=8))
    monkeypatch.setattr(policy, "encode_video", lambda frames: pytest.fail("encoded again"))
    assert tokens(generate(policy, [replace(request(prompt, (1, 2)), features=features)], max_tokens=8)) == expected


def test_weights_are_the_policys_current_ones(own_policy, prompts):
    engine, sampling = NativeEngine(own_policy, [NEVER]), SamplingSettings(max_tokens=8)
    before = tokens(engine.generate([request(prompts[0])], sampling))
    with torch.no_grad():
        own_policy.model.lm_head.weight.mul_(-1.0)
    after = engine.generate([request(prompts[0])], sampling)
    assert tokens(after) != before
    assert_equal_to_teacher_forcing(own_policy.requires_grad_(False), prompts[0], after[0], 1.0, ((),))


def test_no_gradient_is_kept(own_policy, prompts):
    [group] = generate(own_policy, [request(prompts[0])], max_tokens=2)
    assert not group.log_probs[0].requires_grad and own_policy.training
