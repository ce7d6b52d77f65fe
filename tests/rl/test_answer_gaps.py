from dataclasses import replace

import pytest
import torch
from tolerances import LOG_PROBS

from taro.data.examples import GroundingExample
from taro.data.samples import Sample
from taro.evaluation.probes import PROBES
from taro.rl.answer_gaps import answer_gaps
from taro.rl.temporal_gap import gap_token_mask

TEXT = "<think>\nFrom 2.0s to 6.0s, the red square moves left\n</think>\n<answer>2.0s to 6.0s</answer>"


@pytest.fixture
def asked(prompts):
    """With three frames near each boundary."""
    return GroundingExample(Sample("one", "one.mp4", "x", ((1.4, 8.7), (14.5, 30.0)), 22.0), prompts[0])


def test_gaps_are_those_of_the_video_that_the_probe_shows(policy, builder, asked, plain_log_probs):
    found = answer_gaps(policy, builder, asked, TEXT)
    video = PROBES["shuffled_at_boundaries"](asked.prompt.video, asked.sample)
    assert not torch.equal(video.frames, asked.prompt.video.frames)
    ids = builder.encode(TEXT)
    whole, shuffled = (plain_log_probs(policy, prompt, ids) for prompt in (asked.prompt, replace(asked.prompt, video=video)))
    text, spans = builder.token_spans(ids)
    for tokens, gap in found.items():
        mask = gap_token_mask(spans, text, tokens)
        assert gap == pytest.approx(float((whole - shuffled)[mask].mean()), abs=2 * LOG_PROBS), tokens
    assert list(found) == ["response", "think", "timestamps", "answered"] and abs(found["think"]) > 10 * LOG_PROBS


def test_where_there_is_nothing_to_measure(policy, builder, asked):
    assert answer_gaps(policy, builder, replace(asked, sample=replace(asked.sample, spans=((90.0, 99.0),))), TEXT) is None
    found = answer_gaps(policy, builder, asked, "<answer>2.0s to 6.0s</answer>")
    assert found["response"] is not None and found["think"] is found["timestamps"] is None
