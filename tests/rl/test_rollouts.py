"""What an engine is asked for."""

from types import SimpleNamespace

import torch

from taro.data.examples import TrainingExample
from taro.data.samples import Sample
from taro.rl.rollouts import roll_out, shuffled_request
from taro.rollout import RolloutPrompt, SamplingSettings
from taro.rollout.native import NativeEngine

SAMPLE = Sample("one", "one.mp4", "x", ((2.0, 6.0),), 16.0)


def example_of(prompt, seed=5):
    return TrainingExample(SAMPLE, prompt, prefixes=((), (7,)), seeds=(seed, seed + 1))


def test_only_the_pictures_move(prompts, policy):
    prompt = prompts[0]
    foreign = SimpleNamespace(is_policy=False)
    request = shuffled_request(example_of(prompt), 3, policy, foreign)
    video, shuffled = prompt.video, request.prompt.video
    assert torch.equal(shuffled.timestamps, video.timestamps) and request.prompt.input_ids is prompt.input_ids
    assert shuffled.frames.shape == video.frames.shape and not torch.equal(shuffled.frames, video.frames)
    rows = [sorted(map(tuple, frames.flatten(1).tolist())) for frames in (video.frames, shuffled.frames)]
    assert rows[0] == rows[1]
    assert request.prefixes == ((),) * 3 and request.features is None
    again, other = (shuffled_request(example_of(prompt, seed), 3, policy, foreign) for seed in (5, 6))
    assert again.seeds == request.seeds and torch.equal(again.prompt.video.frames, shuffled.frames)
    assert not set(request.seeds) & {*other.seeds, 5, 6} and len(set(request.seeds)) == 3


def test_groups_and_what_they_are_compared_with(prompts, policy, builder):
    """The group is what it is without; the others are those of the shuffled video."""
    native = NativeEngine(policy, builder.end_ids)
    engine = SimpleNamespace(is_policy=True, generate=native.generate)
    examples, sampling = [example_of(prompts[0]), example_of(prompts[1], 9)], SamplingSettings(max_tokens=6)

    def encode(example):
        return policy.encode_video(example.prompt.video.frames)

    alone = roll_out(examples, engine, policy, encode, builder, sampling)
    groups = roll_out(examples, engine, policy, encode, builder, sampling, shuffled=3)
    assert [group.texts for group in groups] == [group.texts for group in alone]
    assert [len(group.shuffled_texts) for group in groups] == [3, 3] and not alone[0].shuffled_texts
    request = shuffled_request(examples[1], 3, policy, engine)
    video = request.prompt.video
    plain = RolloutPrompt(request.prompt, request.prefixes, request.seeds, policy.encode_video(video.frames))
    [expected] = native.generate([plain], sampling)
    assert groups[1].shuffled_texts == tuple(map(builder.decode, expected.completions))
    assert roll_out([], engine, policy, encode, builder, sampling, shuffled=3) == []
