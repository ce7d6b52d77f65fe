import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from taro.rl.advantages import group_advantages
from taro.rl.group_rewards import needs_gaps, reward_group
from taro.rl.rewards import format_reward, temporal_reward, timestamp_iou_reward
from taro.rl.rewards.choose import RewardError, Rewards
from taro.rl.settings import AdvantageSettings, TemporalRewardSettings
from taro.spans import temporal_iou

TEXTS = (
    "<think>\nFrom 2.0s to 6.0s, the red square moves left\n</think>\n<answer>2.0s to 6.0s</answer>",
    "<think>no times here, only words</think><answer>2.5s to 6.5s</answer>",
    "nothing of the kind",
)
GAPS = torch.tensor([0.4, 0.1, 0.3])


def test_rewards_by_hand(group):
    """Spans (2, 6) and (2.5, 6.5) against the truth (2, 6) of a video of 16 s."""
    rewards = reward_group(group, GAPS, TemporalRewardSettings(), AdvantageSettings())
    iou = 3.5 / 4.5
    assert rewards.spans == ((2.0, 6.0), (2.5, 6.5), None)
    assert rewards.ious.tolist() == pytest.approx([1.0, iou, 0.0])
    assert rewards.by_name["format"].tolist() == [1.0, 1.0, 0.0]
    near = (1 - 0.5 / 16) ** 2
    assert rewards.by_name["timestamp_iou"].tolist() == pytest.approx([1.0, iou * near, 0.0])
    assert rewards.by_name["temporal"].tolist() == pytest.approx([0.3, 0.0, 0.0])
    totals = [2.3, 1 + iou * near, 0.0]
    assert rewards.total.tolist() == pytest.approx(totals)
    mean = sum(totals) / 3
    std = (sum((value - mean) ** 2 for value in totals) / 2) ** 0.5
    assert rewards.advantages.tolist() == pytest.approx([(value - mean) / std for value in totals], abs=1e-4)
    plain = reward_group(group, None, None, AdvantageSettings(scale="none"))
    assert plain.by_name.keys() == {"format", "timestamp_iou"} and plain.gaps is None
    assert plain.advantages.tolist() == pytest.approx([t - (mean - 0.1) for t in (2.0, *totals[1:])], abs=1e-5)


def test_the_temporal_reward_alone(group):
    rewards = reward_group(group, GAPS, TemporalRewardSettings(), AdvantageSettings(scale="none"), Rewards({}))
    assert rewards.by_name.keys() == {"temporal"} and rewards.total.tolist() == pytest.approx([0.3, 0.0, 0.0])


def test_a_truth_is_cut_to_the_video_and_the_nearest_truth_counts(group_of):
    group = group_of(texts=("<answer>9 to 16</answer>", "<answer>9 to 12.5</answer>", "no"))
    rewards = reward_group(group, None, None, AdvantageSettings())
    assert rewards.ious.tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert rewards.by_name["timestamp_iou"].tolist() == pytest.approx([1.0, 0.5 * (1 - 3.5 / 16), 0.0])


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
def test_what_a_constructed_path_says_is_no_answer(builder, group_of, prefix, rest, span, format):
    prefixes = (tuple(builder.encode(prefix)), ())
    group = group_of(prefixes, (prefix + rest, "no"))
    rewards = reward_group(group, None, None, AdvantageSettings())
    assert group.texts == (prefix + rest, "no")
    assert rewards.spans == (span, None) and rewards.by_name["format"].tolist() == [format, 0.0]


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
    rewards = reward_group(group, GAPS, TemporalRewardSettings(**settings), AdvantageSettings())
    assert rewards.by_name["temporal"].tolist() == pytest.approx(paid)


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
def test_gaps_are_measured_where_they_can_be_paid(group_of, settings, texts, needed):
    """And where they can't be, no gaps change a reward."""
    settings = TemporalRewardSettings(**settings)
    group = group_of(texts=texts)
    assert needs_gaps(group, settings) == needed
    without = reward_group(group, None, settings, AdvantageSettings())
    paid = False
    for threshold in ("mean", -1.0):
        for gaps in (GAPS, GAPS.flip(0), GAPS.roll(1)):
            given = reward_group(group, gaps, replace(settings, threshold=threshold), AdvantageSettings())
            paid |= not torch.equal(given.advantages, without.advantages)
            assert torch.equal(given.by_name["temporal"], without.by_name["temporal"]) or needed
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
def test_only_constructed_completions_are_mapped(group_of, mode, mapped):
    free = reward_group(group_of(), None, None, AdvantageSettings()).advantages.tolist()
    settings = AdvantageSettings(constructed=mode, beta=0.5)
    for prefixes in (((5,), (), (5,)), ((), (5,), ()), ((5,),) * 3):
        advantages = reward_group(group_of(prefixes), None, None, settings).advantages
        expected = [mapped(a) if prefix else a for a, prefix in zip(free, prefixes, strict=True)]
        assert advantages.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_default_is_bit_equal_to_the_sum_of_the_three(group):
    spans, truth = [(2.0, 6.0), (2.5, 6.5), None], (2.0, 6.0)
    ious = torch.tensor([temporal_iou(span, truth) for span in spans])
    parts = [
        torch.tensor([format_reward(text) for text in TEXTS]),
        torch.tensor([timestamp_iou_reward(span, truth, 16.0) for span in spans]),
        temporal_reward(GAPS, ious),
    ]
    total = torch.stack(parts).sum(0)
    rewards = reward_group(group, GAPS, TemporalRewardSettings(), AdvantageSettings())
    assert list(rewards.by_name) == ["format", "timestamp_iou", "temporal"]
    assert all(map(torch.equal, rewards.by_name.values(), parts)) and torch.equal(rewards.ious, ious)
    assert torch.equal(rewards.total, total) and torch.equal(rewards.advantages, group_advantages(total[None])[0])


def seen(completion):
    return completion.temporal_gap + 10 * completion.constructed + 100 * len(completion.token_ids)


def test_chosen_rewards_are_weighted(group_of, builder, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    group = group_of((tuple(builder.encode("<think>")), (), ()), ("<think>a</think><answer>2 to 6</answer>", *TEXTS[1:]))
    chosen = Rewards({"test_group_rewards.seen": 2.0, "timelens2": {"weight": 0.5, "beta": 2.0}})
    rewards = reward_group(group, GAPS, TemporalRewardSettings(bonus=0.0), AdvantageSettings(), chosen)
    lengths = [len(completion) for completion in group.rollout.completions]
    own = [gap + 10 * first + 100 * length for gap, first, length in zip(GAPS.tolist(), (1, 0, 0), lengths, strict=True)]
    assert rewards.by_name["test_group_rewards.seen"].tolist() == pytest.approx(own)
    assert rewards.by_name["timelens2/parse"].tolist() == [0.0, 0.0, -1.0] and "temporal" in rewards.by_name
    parts = sum(rewards.by_name[f"timelens2/{part}"] for part in ("wasserstein", "iou", "parse"))
    torch.testing.assert_close(rewards.total, 2 * torch.tensor(own) + 0.5 * parts)


def test_a_reward_that_fails_stops_the_run(group):
    example = replace(group.example, sample=replace(group.example.sample, task="grounded_qa"))
    with pytest.raises(RewardError, match=r"^reward tempr1 raised ValueError: .* 'answer'.*; sample 'one', the text '<th"):
        reward_group(replace(group, example=example), None, None, AdvantageSettings(), Rewards({"tempr1": 1.0}))


@pytest.mark.parametrize("scale", ["std", "none", "leave_one_out", "separate", "dgrpo", "dgrpo_released"])
def test_advantages_of_a_group(group, scale):
    rewards = reward_group(group, None, None, AdvantageSettings(scale=scale))
    total = [float(value) for value in rewards.total]
    mean, std = statistics.mean(total), statistics.stdev(total)
    both = [iou + value for iou, value in zip(rewards.ious.tolist(), rewards.by_name["format"].tolist(), strict=True)]
    expected = {
        "std": [(value - mean) / std for value in total],
        "none": [value - mean for value in total],
        "leave_one_out": [value - (sum(total) - value) / 2 for value in total],
        "separate": sum(group_advantages(values[None])[0] for values in rewards.by_name.values()).tolist(),
        "dgrpo": [(value - mean) / std * (3 - statistics.mean(both)) / 2 for value in total],
        "dgrpo_released": [(value - mean) / std * (3 - mean) / 2 for value in total],
    }
    assert 1 < mean < 2 and 1 < statistics.mean(both) < 2
    assert rewards.advantages.tolist() == pytest.approx(expected[scale], abs=1e-5)
