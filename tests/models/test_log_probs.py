import pytest
import torch
from tolerances import LOG_PROBS

import taro.models.log_probs
from taro.models.families import PLACEHOLDERS
from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import PackedGroup, pack_group
from taro.models.qwen_vl import QwenVL

LENGTHS = (5, 1, 0, 9, 2)


def random_completions(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (length,), generator=generator) for length in lengths]


def score(policy, prompt, completions, **settings):
    return compute_log_probs(policy, [inputs(policy, prompt, completions)], with_entropy=True, **settings)[0]


def inputs(policy, prompt, completions):
    features = policy.encode_video(prompt.video.frames)
    return GroupInputs(prompt, pack_group(prompt.input_ids, completions), features)


def gradients(policy):
    found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return found


def trained_names(policy):
    return {name for name, parameter in policy.named_parameters() if parameter.requires_grad}


def assert_close_gradients(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert (got[name] - value).norm() <= 1e-4 * value.norm(), name
        assert value.norm() > 0, name


@pytest.fixture(scope="module", params=["shared_prefix", "sdpa"])
def attention(request):
    return request.param


@pytest.fixture(scope="module")
def policy(model_folder, attention):
    return QwenVL.from_pretrained(model_folder, attention=attention).eval().requires_grad_(False)


@pytest.fixture
def own_policy(model_folder, attention):
    policy = QwenVL.from_pretrained(model_folder, attention=attention)
    policy.freeze_tower()
    return policy


@pytest.mark.parametrize(("lengths", "temperature"), [(LENGTHS, 0.6), ((1,), 1.0), ((3, 3), 1.0), ((0, 4), 1.0)], ids=str)
def test_packed_log_probs_equal_the_plain_loop(policy, prompts, plain_log_probs, lengths, temperature):
    completions = random_completions(lengths)
    scores = score(policy, prompts[0], completions, temperature=temperature)
    assert scores.log_probs.shape == (len(lengths), max(lengths))
    for row, completion in zip(scores.log_probs, completions, strict=True):
        expected = plain_log_probs(policy, prompts[0], completion, temperature)
        torch.testing.assert_close(row[: len(completion)], expected, atol=LOG_PROBS, rtol=0)
        assert (row[len(completion) :] == 0).all()


def test_log_probs_depend_on_the_video(policy, prompts):
    """And are not nearly uniform: else the comparisons of this file would say little."""
    completions = random_completions((30,))
    group = pack_group(prompts[0].input_ids, completions)
    frames = prompts[0].video.frames
    true, reversed_ = (
        compute_log_probs(policy, [GroupInputs(prompts[0], group, policy.encode_video(f))])[0] for f in (frames, frames.flip(0))
    )
    assert (true.log_probs - reversed_.log_probs).abs().max() > 1e-3 and true.log_probs.std() > 0.5


def test_packed_gradients_equal_the_plain_loop(own_policy, prompts, plain_log_probs):
    completions = random_completions(LENGTHS)
    weights = torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(3))  # of first tokens, too
    (score(own_policy, prompts[1], completions).log_probs * weights).sum().backward()
    packed = gradients(own_policy)
    for row, completion in zip(weights, completions, strict=True):
        if len(completion):
            log_probs = plain_log_probs(own_policy, prompts[1], completion)
            (log_probs * row[: len(completion)]).sum().backward()
    assert packed.keys() == trained_names(own_policy)
    assert_close_gradients(packed, gradients(own_policy))


def test_a_completion_does_not_see_the_others(policy, prompts):
    completions = random_completions((4, 6, 3))
    before = score(policy, prompts[0], completions)
    changed = [completions[0], random_completions((8,), seed=1)[0], completions[2]]
    after = score(policy, prompts[0], changed)
    for row in (0, 2):
        length = len(completions[row])
        torch.testing.assert_close(after.log_probs[row, :length], before.log_probs[row, :length], atol=LOG_PROBS, rtol=0)
        torch.testing.assert_close(after.entropy[row, :length], before.entropy[row, :length], atol=LOG_PROBS, rtol=0)


def groups_of(policy, prompts):
    """Of different prompts, sizes and completions."""
    lengths = ((4, 6, 3), (1, 0), LENGTHS, (8,))
    return [
        inputs(policy, prompt, random_completions(own, seed))
        for seed, (prompt, own) in enumerate(zip(prompts, lengths, strict=True))
    ]


def test_groups_in_one_pack_do_not_see_each_other(policy, prompts):
    groups = groups_of(policy, prompts)
    together = compute_log_probs(policy, groups, temperature=0.7, with_entropy=True)
    for group, scores in zip(groups, together, strict=True):
        alone = compute_log_probs(policy, [group], temperature=0.7, with_entropy=True)[0]
        torch.testing.assert_close(scores.log_probs, alone.log_probs, atol=LOG_PROBS, rtol=0)
        torch.testing.assert_close(scores.entropy, alone.entropy, atol=LOG_PROBS, rtol=0)
    other = [*groups[:2], inputs(policy, prompts[3], random_completions((9, 2), seed=9)), groups[3]]
    changed = compute_log_probs(policy, other, temperature=0.7)
    for number in (0, 1, 3):
        torch.testing.assert_close(changed[number].log_probs, together[number].log_probs, atol=LOG_PROBS, rtol=0)


def test_the_gradient_of_a_pack_is_the_sum_of_its_groups(own_policy, prompts):
    groups = groups_of(own_policy, prompts)
    sum((scores.log_probs**2).sum() for scores in compute_log_probs(own_policy, groups)).backward()
    together = gradients(own_policy)
    for group in groups:
        (compute_log_probs(own_policy, [group])[0].log_probs ** 2).sum().backward()
    assert_close_gradients(together, gradients(own_policy))


@pytest.mark.slow
def test_flex_attention_gives_the_same_log_probs(model_folder, prompts):
    """Its block masks; on a CPU there is no backward pass."""
    plain, flex = (QwenVL.from_pretrained(model_folder, attention=name) for name in ("shared_prefix", "flex"))
    with torch.no_grad():
        groups = groups_of(plain, prompts)
        expected = compute_log_probs(plain, groups)
        for scores, same in zip(compute_log_probs(flex, groups), expected, strict=True):
            torch.testing.assert_close(scores.log_probs, same.log_probs, atol=LOG_PROBS, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flex_attention_gives_the_same_gradients(model_folder, prompts):
    """Compiled, for packs of different lengths."""
    found = []
    for name in ("shared_prefix", "flex"):
        policy = QwenVL.from_pretrained(model_folder, attention=name).cuda()
        policy.freeze_tower()
        for some in (slice(0, 1), slice(0, 2), slice(None)):
            groups = groups_of(policy, [prompt.to("cuda") for prompt in prompts])[some]
            sum((scores.log_probs**2).sum() for scores in compute_log_probs(policy, groups)).backward()
        found.append(gradients(policy))
    assert_close_gradients(found[1], found[0])


def test_a_plain_causal_mask_gives_other_log_probs(model_folder, prompts, monkeypatch):
    policy = QwenVL.from_pretrained(model_folder, attention="sdpa").requires_grad_(False)
    completions = random_completions((4, 6, 3))
    right = score(policy, prompts[0], completions).log_probs
    causal = lambda group: torch.ones(len(group.input_ids), len(group.input_ids), dtype=torch.bool).tril()  # noqa: E731
    monkeypatch.setattr(PackedGroup, "attention_mask", causal)
    wrong = score(policy, prompts[0], completions).log_probs
    torch.testing.assert_close(wrong[0], right[0], atol=LOG_PROBS, rtol=0)
    assert (wrong[1:, 1:3] - right[1:, 1:3]).abs().max() > 1e-2


def test_what_allows_too_much_gives_other_log_probs(model_folder, prompts, monkeypatch):
    policy = QwenVL.from_pretrained(model_folder, attention="shared_prefix").requires_grad_(False)
    completions = random_completions((4, 6, 3))
    right = score(policy, prompts[0], completions).log_probs
    acausal = property(lambda group: torch.ones(6, group.prompt_length + 6, dtype=torch.bool))
    monkeypatch.setattr(PackedGroup, "allowed", acausal)
    wrong = score(policy, prompts[0], completions).log_probs
    assert (wrong - right).abs().max() > 1e-2


def test_slots_and_mask_allow_the_same():
    group = pack_group(range(1, 6), [[7, 8], [9], [], [10, 11, 12]])
    allowed = torch.zeros(11, 11, dtype=torch.bool)
    allowed[:5, :5] = torch.ones(5, 5, dtype=torch.bool).tril()
    for token, slot in enumerate(group.slots.tolist()):
        row, column = divmod(slot, 3)
        own = [t for t, s in enumerate(group.slots.tolist()) if s // 3 == row]
        allowed[5 + token, :5] = group.allowed[column, :5]
        for place, other in enumerate(own):
            allowed[5 + token, 5 + other] = group.allowed[column, 5 + place]
    assert torch.equal(allowed, group.attention_mask())


def test_positions_that_run_on_give_other_log_probs(policy, prompts, monkeypatch):
    completions = random_completions((4, 6, 3))
    right = score(policy, prompts[0], completions).log_probs

    def running_on(group, prompt_positions):
        count, start = len(group.input_ids) - group.prompt_length, int(prompt_positions.max()) + 1
        return torch.cat([prompt_positions, torch.arange(start, start + count).expand(3, -1)], dim=1)

    monkeypatch.setattr(PackedGroup, "position_ids", running_on)
    wrong = score(policy, prompts[0], completions).log_probs
    assert (wrong[1:, 1:3] - right[1:, 1:3]).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunk_size_changes_nothing(own_policy, prompts, chunk):
    completions = random_completions(LENGTHS)
    results = []
    for size in (1024, chunk):
        scores = score(own_policy, prompts[0], completions, chunk=size, temperature=0.8)
        (scores.log_probs**2).sum().backward()
        results.append((scores, gradients(own_policy)))
    (whole, expected), (parts, got) = results
    torch.testing.assert_close(parts.log_probs, whole.log_probs, atol=LOG_PROBS, rtol=0)
    torch.testing.assert_close(parts.entropy, whole.entropy, atol=LOG_PROBS, rtol=0)
    assert_close_gradients(got, expected)


def test_entropy_equals_the_slow_version(own_policy, prompts, plain_logits):
    temperature = 0.5
    completions = random_completions((4, 2))
    scores = score(own_policy, prompts[2], completions, temperature=temperature)
    assert not scores.entropy.requires_grad
    for row, completion in zip(scores.entropy, completions, strict=True):
        logits = plain_logits(own_policy, prompts[2], completion)[: len(completion)].double() / temperature
        p = torch.softmax(logits, dim=-1)
        slow = -torch.where(p > 0, p * p.log(), 0.0).sum(-1)
        torch.testing.assert_close(row[: len(completion)].double(), slow, atol=LOG_PROBS, rtol=0)
        assert (row[len(completion) :] == 0).all()


def test_entropy_is_computed_once_and_where_it_is_asked_for(own_policy, prompts, monkeypatch):
    """Not again in the backward pass; and nothing else depends on it."""
    calls, entropy = [], taro.models.log_probs._entropy
    monkeypatch.setattr(taro.models.log_probs, "_entropy", lambda log_p: calls.append(len(log_p)) or entropy(log_p))
    group, found = inputs(own_policy, prompts[0], random_completions(LENGTHS)), []
    for with_entropy, expected in ((False, []), (True, [8, 8, 1])):
        (scores,) = compute_log_probs(own_policy, [group], chunk=8, with_entropy=with_entropy)
        scores.log_probs.sum().backward()
        assert calls == expected and (scores.entropy is not None) == with_entropy
        found.append((scores.log_probs, gradients(own_policy)))
    (cheap, cheap_gradients), (whole, whole_gradients) = found
    assert torch.equal(cheap, whole)
    assert all(torch.equal(cheap_gradients[name], value) for name, value in whole_gradients.items())


def test_a_group_of_empty_completions_scores_nothing(own_policy, prompts):
    scores = score(own_policy, prompts[0], [torch.tensor([], dtype=torch.long)] * 2)
    assert scores.log_probs.shape == scores.entropy.shape == (2, 0)
    scores.log_probs.sum().backward()  # a rank with nothing to train on runs backward too


def test_suppressed_tokens_have_no_probability(policy, prompts, builder):
    features = policy.encode_video(prompts[0].video.frames)
    hidden = policy.hidden_states(
        prompts[0].input_ids[None],
        prompts[0].position_ids[:, None],
        features=features,
        video_mask=prompts[0].video_mask[None],
    )
    logits = policy.logits(hidden[0])
    suppressed = set(builder.tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS)))
    assert set(torch.nonzero(logits[0].isneginf())[:, 0].tolist()) == suppressed
    assert len(suppressed) == 5


def test_a_video_token_in_a_completion_is_text(own_policy, prompts, builder):
    clean, other = random_completions((6, 4))
    dirty = clean.clone()
    dirty[3] = builder.video_token_id
    scores = score(own_policy, prompts[0], [dirty, other])
    reference = score(own_policy, prompts[0], [clean, other]).log_probs
    assert scores.log_probs[0, 3] == float("-inf")
    assert scores.log_probs[0, 4:].isfinite().all() and scores.entropy.isfinite().all()
    torch.testing.assert_close(scores.log_probs[0, :3], reference[0, :3], atol=LOG_PROBS, rtol=0)
    torch.testing.assert_close(scores.log_probs[1], reference[1], atol=LOG_PROBS, rtol=0)
    torch.where(scores.log_probs.isfinite(), scores.log_probs, 0.0).sum().backward()
    assert all(gradient.isfinite().all() for gradient in gradients(own_policy).values())
