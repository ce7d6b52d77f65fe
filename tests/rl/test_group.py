from dataclasses import replace

import pytest
import torch
from tolerances import LOG_PROBS

from taro.data.examples import TrainingExample
from taro.data.samples import Caption, Sample
from taro.rl.group import compute_gaps, judge, make_group, needs_gaps, shuffled_log_probs
from taro.rl.perturbation import FrameShuffle
from taro.rl.settings import AdvantageSettings, TemporalRewardSettings
from taro.rollout import RolloutGroup

TEXTS = (
    "<think>\nFrom 2.0s to 6.0s, the red square moves left\n</think>\n<answer>2.0s to 6.0s</answer>",
    "<think>no times here, only words</think><answer>2.5s to 6.5s</answer>",
    "nothing of the kind",
)
SAMPLE = Sample(
    id="one", video="one.mp4", query="x", spans=((2.0, 6.0), (9.0, 30.0)), duration=16.0, captions=(Caption(1, 2, "y"),)
)


@pytest.fixture
def group(builder, policy, prompts):
    return group_of(builder, policy, prompts[0])


def group_of(builder, policy, prompt, prefixes=((), (), ()), texts=TEXTS):
    example = TrainingExample(SAMPLE, prompt, prefixes=prefixes, seeds=(0,) * len(texts), shuffle_seed=11)
    completions = tuple(torch.tensor([*builder.encode(text), builder.eos_id]) for text in texts)
    rollout = RolloutGroup(completions, completions, (True,) * len(texts))
    return make_group(example, rollout, policy.encode_video(prompt.video.frames), builder)


def test_texts_and_the_characters_of_each_token(group):
    assert group.texts == TEXTS
    for text, spans, completion in zip(TEXTS, group.token_spans, group.rollout.completions, strict=True):
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
    assert gaps[:known].abs().min() > 1e-3


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
def test_a_shuffle_moves_nothing_but_pixels(policy, builder, prompts, monkeypatch, permutation):
    group = group_of(builder, policy, prompts[0])
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


GAPS = torch.tensor([0.4, 0.1, 0.3])


def test_rewards_by_hand(group):
    """Spans (2, 6) and (2.5, 6.5) against the truth (2, 6) of a video of 16 s."""
    judgement = judge(group, GAPS, TemporalRewardSettings(), AdvantageSettings())
    iou = 3.5 / 4.5
    assert judgement.spans == ((2.0, 6.0), (2.5, 6.5), None)
    assert judgement.ious.tolist() == pytest.approx([1.0, iou, 0.0])
    assert judgement.rewards["format"].tolist() == [1.0, 1.0, 0.0]
    near = (1 - 0.5 / 16) ** 2
    assert judgement.rewards["timestamp_iou"].tolist() == pytest.approx([1.0, iou * near, 0.0])
    assert judgement.rewards["temporal"].tolist() == pytest.approx([0.3, 0.0, 0.0])
    totals = [2.3, 1 + iou * near, 0.0]
    assert judgement.total.tolist() == pytest.approx(totals)
    mean = sum(totals) / 3
    std = (sum((value - mean) ** 2 for value in totals) / 2) ** 0.5
    assert judgement.weights.tolist() == pytest.approx([(value - mean) / std for value in totals], abs=1e-4)
    plain = judge(group, None, None, AdvantageSettings(scale="none"))
    assert plain.rewards.keys() == {"format", "timestamp_iou"} and plain.gaps is None
    assert plain.weights.tolist() == pytest.approx([t - (mean - 0.1) for t in (2.0, *totals[1:])], abs=1e-5)


def test_a_truth_is_cut_to_the_video_and_the_nearest_truth_counts(builder, policy, prompts):
    group = group_of(builder, policy, prompts[0], texts=("<answer>9 to 16</answer>", "<answer>9 to 12.5</answer>", "no"))
    judgement = judge(group, None, None, AdvantageSettings())
    assert judgement.ious.tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert judgement.rewards["timestamp_iou"].tolist() == pytest.approx([1.0, 0.5 * (1 - 3.5 / 16), 0.0])


TRAP = "<think>\nFrom 1.0s to 2.0s, a man </think><answer>2.00s to 6.00s</answer>"
OPENING = "<think>\nFrom 1.0s to 2.0s, a man waves"


@pytest.mark.parametrize(
    ("prefix", "rest", "span", "format"),
    [
        (TRAP, "", None, 0.0),
        (TRAP, " and nothing more", None, 0.0),
        (TRAP, "</think><answer>9.0s to 12.0s</answer>", (9.0, 12.0), 1.0),
        (OPENING, "</think><answer>9.0s to 12.0s</answer>", (9.0, 12.0), 1.0),
        (OPENING, " twice</think><answer>9.0s to 12.0s</answer> so", (9.0, 12.0), 0.0),
        (OPENING, " twice <think></think><answer>9.0s to 12.0s</answer>", (9.0, 12.0), 0.0),
        ("", OPENING + "</think><answer>9.0s to 12.0s</answer>", (9.0, 12.0), 1.0),
        ("", TRAP, (2.0, 6.0), 1.0),
    ],
)
def test_what_a_constructed_path_says_is_no_answer(builder, policy, prompts, prefix, rest, span, format):
    prefixes = (tuple(builder.encode(prefix)), ())
    group = group_of(builder, policy, prompts[0], prefixes, (prefix + rest, "no"))
    judgement = judge(group, None, None, AdvantageSettings())
    assert group.texts == (prefix + rest, "no")
    assert judgement.spans == (span, None) and judgement.rewards["format"].tolist() == [format, 0.0]


@pytest.mark.parametrize(
    ("settings", "paid"),
    [
        ({}, [0.3, 0.0, 0.0]),
        ({"threshold": 0.05}, [0.3, 0.3, 0.0]),
        ({"threshold": 0.05, "iou_gate": 0.9}, [0.3, 0.0, 0.0]),
        ({"margin": 0.2}, [0.0, 0.0, 0.0]),
        ({"bonus": 0.5}, [0.5, 0.0, 0.0]),
    ],
)
def test_settings_of_the_temporal_reward_are_used(group, settings, paid):
    judgement = judge(group, GAPS, TemporalRewardSettings(**settings), AdvantageSettings())
    assert judgement.rewards["temporal"].tolist() == pytest.approx(paid)


WRONG = ("<think>a</think><answer>6.0s to 8.0s</answer>", "nothing of the kind", "<answer>9.0s to 11.0s</answer>")


@pytest.mark.parametrize(
    ("settings", "texts", "needed"),
    [
        ({}, TEXTS, True),
        ({}, WRONG, False),
        ({}, ("nothing", "of the kind", "at all"), False),
        ({"iou_gate": 0.25}, WRONG, True),  # 2 of 7 seconds of the second truth
        ({"iou_gate": 0.3}, WRONG, False),
        ({"iou_gate": 0.0}, ("nothing", "of the kind", "at all"), True),  # what can't be read has an IoU of 0
        ({"iou_gate": 1.0}, TEXTS, True),
        ({"iou_gate": 1.01}, TEXTS, False),
        ({"bonus": 0.0}, TEXTS, False),
        ({"bonus": 0.0, "measured": "all"}, TEXTS, True),
        ({"measured": "all"}, WRONG, True),
    ],
)
def test_gaps_are_measured_where_they_can_be_paid(builder, policy, prompts, settings, texts, needed):
    """And where they can't be, no gaps change a reward."""
    settings = TemporalRewardSettings(**settings)
    group = group_of(builder, policy, prompts[0], texts=texts)
    assert needs_gaps(group, settings) == needed
    without = judge(group, None, settings, AdvantageSettings())
    paid = False
    for threshold in ("mean", -1.0):
        for gaps in (GAPS, GAPS.flip(0), GAPS.roll(1)):
            given = judge(group, gaps, replace(settings, threshold=threshold), AdvantageSettings())
            paid |= not torch.equal(given.weights, without.weights)
            assert torch.equal(given.rewards["temporal"], without.rewards["temporal"]) or needed
    assert without.gaps is None and paid == (needed and settings.measured == "payable")


@pytest.mark.parametrize(("seconds", "measured"), [(5.0, False), (1.0, True)])
def test_where_no_frame_moves_nothing_is_measured(group, seconds, measured):
    """With few frames a second no boundary (2, 6, 9 and 30 s) has two of them within the radius: the log-probs of two passes
    on the same video would differ by roundings, and the group's mean would make a reward of them."""
    prompt = group.example.prompt
    video = replace(prompt.video, timestamps=seconds * torch.arange(len(prompt.video.timestamps), dtype=torch.float64))
    sparse = replace(group, example=replace(group.example, prompt=replace(prompt, video=video)))
    for chosen in ("payable", "all"):
        assert needs_gaps(sparse, TemporalRewardSettings(radius=1.0, measured=chosen)) == measured


@pytest.mark.parametrize(
    ("mode", "mapped"),
    [
        ("mask", lambda a: max(a, 0.0)),
        ("awr", lambda a: 2.718281828 ** (a / 0.5)),
        ("clone", lambda a: float(a > 0)),
        ("raft", lambda a: float(a > 0.6)),  # the best of 0.7, 0.4 and -1.1
    ],
)
def test_only_constructed_completions_are_mapped(builder, policy, prompts, mode, mapped):
    free = judge(group_of(builder, policy, prompts[0]), None, None, AdvantageSettings()).weights.tolist()
    settings = AdvantageSettings(constructed=mode, beta=0.5)
    for prefixes in (((5,), (), (5,)), ((), (5,), ()), ((5,),) * 3):
        weights = judge(group_of(builder, policy, prompts[0], prefixes), None, None, settings).weights
        expected = [mapped(a) if prefix else a for a, prefix in zip(free, prefixes, strict=True)]
        assert weights.tolist() == pytest.approx(expected, rel=1e-4)
