from dataclasses import replace

import pytest
import torch
from tolerances import LOG_PROBS

from taro.rl.group import shuffled_log_probs
from taro.rl.group_rewards import compute_gaps, needs_gaps
from taro.rl.settings import TemporalRewardSettings
from taro.video.perturbation import FrameShuffle, SpanShuffle


def test_texts_and_the_characters_of_each_token(group):
    for text, spans, completion in zip(group.texts, group.token_spans, group.rollout.completions, strict=True):
        assert len(spans) == len(completion)
        assert "".join(text[start:end] for start, end in spans) == text
        assert spans[-1] == (len(text), len(text))  # the end token


def permutations(group, radius, count):
    """As drawn one after the other from the sample's seed."""
    generator = torch.Generator().manual_seed(group.example.shuffle_seed)
    video = group.example.prompt.video
    boundaries = torch.tensor([2.0, 6.0, 9.0, 30.0], dtype=torch.float64)
    return [FrameShuffle(radius)(video.timestamps, boundaries, generator) for _ in range(count)]


@pytest.mark.parametrize("permutation", ["group", "completion"])
@pytest.mark.parametrize("tokens", ["response", "think", "timestamps"])
def test_gaps_equal_those_of_whole_plain_passes(policy, group, plain_log_probs, permutation, tokens):
    """The frames permuted, all of them encoded again, one completion at a time."""
    settings = TemporalRewardSettings(radius=1.5, permutation=permutation, tokens=tokens)
    own = [plain_log_probs(policy, group.example.prompt, completion) for completion in group.rollout.completions]
    drawn = permutations(group, 1.5, 1 if permutation == "group" else 3)
    video = group.example.prompt.video
    shuffled = []
    for row, completion in enumerate(group.rollout.completions):
        order = drawn[row if permutation == "completion" else 0]
        assert not torch.equal(order, torch.arange(len(order)))
        other = replace(group.example.prompt, video=replace(video, frames=video.frames[order]))
        shuffled.append(plain_log_probs(policy, other, completion))
    found = shuffled_log_probs(policy, [group], settings, 1.0)[0]
    for row, values in zip(found, shuffled, strict=True):
        torch.testing.assert_close(row[: len(values)], values, atol=LOG_PROBS, rtol=0)

    def chosen(text, start, end):
        if tokens == "response":
            return True
        if tokens == "think":
            inside = (text.find("<think>") + 7, text.find("</think>")) if "<think>" in text else (0, 0)
            return max(start, inside[0]) < min(end, inside[1])
        first = text.find("2.0s to 6.0s, the")
        return first >= 0 and any(max(start, a) < min(end, a + 3) for a in (first, first + 8))

    expected = []
    for text, spans, a, b in zip(group.texts, group.token_spans, own, shuffled, strict=True):
        picked = [i for i, (start, end) in enumerate(spans) if chosen(text, start, end)]
        expected.append(float((a - b)[picked].mean()) if picked else float("nan"))
    padded = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    gaps = compute_gaps(group, padded, found, tokens)
    assert gaps.tolist() == pytest.approx(expected, abs=LOG_PROBS, nan_ok=True)
    known = {"response": 3, "think": 2, "timestamps": 1}[tokens]
    assert int(gaps.isfinite().sum()) == known
    assert gaps[:known].abs().max() > 1e-3


def test_the_choice_of_tokens_and_of_permutations_changes_the_gaps(policy, group):
    plain = torch.zeros(group.packed.response_mask.shape)
    gaps = {}
    for permutation in ("group", "completion"):
        shuffled = shuffled_log_probs(policy, [group], TemporalRewardSettings(permutation=permutation), 1.0)[0]
        for tokens in ("response", "think", "timestamps"):
            gaps[permutation, tokens] = round(float(compute_gaps(group, plain, shuffled, tokens)[0]), 5)
    # the first completion's permutation is the same: its gaps are, too
    assert gaps["group", "response"] == pytest.approx(gaps["completion", "response"], abs=1e-4)
    assert len({gaps["group", tokens] for tokens in ("response", "think", "timestamps")}) == 3
    rows = [
        shuffled_log_probs(policy, [group], TemporalRewardSettings(permutation=permutation), 1.0)[0][1]
        for permutation in ("group", "completion")
    ]
    assert (rows[0] - rows[1]).abs().max() > 1e-3


@pytest.mark.parametrize("permutation", ["group", "completion"])
def test_a_shuffle_moves_nothing_but_pixels(policy, group, monkeypatch, permutation):
    calls, hidden_states = [], policy.hidden_states

    def spy(input_ids, position_ids, **inputs):
        calls.append((input_ids, position_ids, inputs["video_mask"], inputs["features"]))
        return hidden_states(input_ids, position_ids, **inputs)

    monkeypatch.setattr(policy, "hidden_states", spy)
    shuffled_log_probs(policy, [group], TemporalRewardSettings(permutation=permutation), 1.0)[0]
    prompt, length = group.example.prompt, len(group.example.prompt.input_ids)
    assert len(calls) == (1 if permutation == "group" else 3)
    for input_ids, position_ids, video_mask, features in calls:
        assert torch.equal(input_ids[0, :length], prompt.input_ids)
        assert torch.equal(position_ids[:, 0, :length], prompt.position_ids)
        assert torch.equal(video_mask[0, :length], prompt.video_mask) and not video_mask[0, length:].any()
        assert features.embeds.shape == group.features.embeds.shape
        assert not torch.equal(features.embeds, group.features.embeds)
    one, other = calls[0][3].embeds, calls[-1][3].embeds
    assert torch.equal(one, other) == (permutation == "group")


def test_an_event_that_does_not_occur_has_no_gap(group):
    shuffles = (FrameShuffle(3.0), SpanShuffle())
    assert all(map(group.moves_frames, shuffles))
    absent = replace(group.example.sample, task="multi_span", spans=())
    group = replace(group, example=replace(group.example, sample=absent))
    assert not any(map(group.moves_frames, shuffles)) and not needs_gaps(group, TemporalRewardSettings(measured="all"))


def test_the_same_seed_gives_the_same_shuffle(policy, group):
    settings = TemporalRewardSettings()
    first, second = (shuffled_log_probs(policy, [group], settings, 1.0)[0] for _ in range(2))
    assert torch.equal(first, second)
    example = replace(group.example, shuffle_seed=12)
    assert not torch.equal(shuffled_log_probs(policy, [replace(group, example=example)], settings, 1.0)[0], first)


def test_the_temperature_reaches_the_shuffled_pass(policy, group, plain_log_probs):
    (order,) = permutations(group, 3.0, 1)
    video = group.example.prompt.video
    other = replace(group.example.prompt, video=replace(video, frames=video.frames[order]))
    found = shuffled_log_probs(policy, [group], TemporalRewardSettings(), 0.7)[0]
    completion = group.rollout.completions[1]
    expected = plain_log_probs(policy, other, completion, 0.7)
    torch.testing.assert_close(found[1, : len(completion)], expected, atol=LOG_PROBS, rtol=0)
