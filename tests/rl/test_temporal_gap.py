import math
import re

import pytest
import torch

from taro.rl.temporal_gap import gap_token_mask, temporal_gaps

TEXT = "<think>\nFrom 3.0s to 5.5s, a man runs at 4s.</think>\n<answer>3.0s to 5.5s</answer>"
OFFSETS = [match.span() for match in re.finditer(r"\w+|[^\w\s]| |\n", TEXT)]


def chosen(tokens, offsets=OFFSETS, text=TEXT):
    mask = gap_token_mask(offsets, text, tokens)
    assert mask.dtype == torch.bool and mask.shape == (len(offsets),)
    return [text[start:end] for (start, end), use in zip(offsets, mask.tolist(), strict=True) if use]


def test_response_takes_every_token():
    assert gap_token_mask([*OFFSETS, (len(TEXT), len(TEXT))], TEXT, "response").all()


def test_think_takes_the_reasoning():
    assert "".join(chosen("think")) == "\nFrom 3.0s to 5.5s, a man runs at 4s."


def test_timestamps_take_the_numbers_of_ranges_in_the_reasoning():
    assert chosen("timestamps") == ["3", ".", "0s", "5", ".", "5s"]


def test_answered_takes_the_lines_about_the_answered_span():
    text = "<think>\nFrom 0s to 2s, a dog.\nFrom 3s to 5s, a cat.\nA cat 3s to 5s.\n</think>\n<answer>3s to 4.5s</answer>"
    offsets = [match.span() for match in re.finditer(r"[^\n]*\n?", text)]
    assert chosen("answered", offsets, text) == ["From 3s to 5s, a cat.\n", "A cat 3s to 5s.\n"]


def test_numbers_that_are_no_times_answer_nothing():
    text = "<think>\n2 to 3 people stand.\nFrom 2s to 4s, a dog.\n</think>\n<answer>2s to 3.2s</answer>"
    assert "".join(chosen("answered", [(i, i + 1) for i in range(len(text))], text)) == "From 2s to 4s, a dog.\n"


def test_nothing_is_answered_without_an_answer_or_a_time_near_it():
    for answer in ("", "<answer>soon</answer>", "<answer>7s to 9s</answer>"):
        text = "<think>\nFrom 3s to 5s, a cat.\n</think>\n" + answer
        assert chosen("answered", [(i, i + 1) for i in range(len(text))], text) == []


def test_a_token_that_overlaps_counts_and_one_that_touches_does_not():
    text = "ab<think>cd</think>"
    offsets = [(0, 9), (5, 10), (9, 10), (10, 11), (10, 19), (11, 19), (0, 19)]
    assert gap_token_mask(offsets, text, "think").tolist() == [False, True, True, True, True, False, True]


def test_tokens_without_characters_are_not_reasoning():
    text = "<think>abc"
    assert gap_token_mask([(7, 8), (8, 8), (8, 10), (10, 10)], text, "think").tolist() == [True, False, True, False]


def test_open_and_missing_think_blocks():
    assert chosen("think", [(0, 7), (7, 9), (9, 10)], "<think>abc") == ["ab", "c"]
    assert chosen("think", [(0, 3), (3, 6)], "abcdef") == []
    assert chosen("timestamps", [(0, 3), (3, 6)], "1s to 2s") == []
    assert chosen("think", [], "") == []


def test_unknown_choice():
    with pytest.raises(ValueError, match="got 'answer'"):
        gap_token_mask(OFFSETS, TEXT, "answer")


def test_gaps_by_hand():
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    shuffled = torch.tensor([[-2.0, -4.0, -9.0], [-1.0, -0.5, math.nan], [-2.0, math.inf, -2.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    gaps = temporal_gaps(log_probs, shuffled, mask)
    assert gaps[:2].tolist() == [1.5, -0.25]
    assert gaps[2].isnan()


def test_gaps_match_the_slow_version():
    generator = torch.Generator().manual_seed(0)
    log_probs, shuffled = torch.randn(2, 8, 12, generator=generator, dtype=torch.float64)
    mask = torch.rand(8, 12, generator=generator) < 0.5
    for row, gap in enumerate(temporal_gaps(log_probs, shuffled, mask).tolist()):
        differences = [float(log_probs[row, i] - shuffled[row, i]) for i in range(12) if mask[row, i]]
        assert gap == pytest.approx(sum(differences) / len(differences))


def test_a_non_finite_score_stays_visible():
    gaps = temporal_gaps(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-math.inf, -1.0]]), torch.ones(1, 2))
    assert not gaps.isfinite().any()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2, 3\) and \(3,\)"):
        temporal_gaps(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3))
