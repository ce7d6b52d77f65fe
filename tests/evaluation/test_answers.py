import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from taro.data.examples import GroundingExample
from taro.data.samples import load_samples
from taro.evaluation import answers
from taro.evaluation.answers import SharedClock, answer_groups
from taro.rollout import RolloutGroup, SamplingSettings
from taro.video.load import VideoSettings, load_video

SAMPLING = SamplingSettings(0.0, 8)


@pytest.fixture(autouse=True)
def wait(monkeypatch):
    """Lets seconds pass; none do by themselves."""
    now = [0.0]
    monkeypatch.setattr(answers, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


class Engine:
    """Takes up to `at_once` prompts and 2 seconds for them. It says `text` with each seed, and finishes but the seed 9."""

    def __init__(self, builder, text, wait):
        self.builder, self.text, self.wait, self.batches = builder, text, wait, []

    def stream(self, prompts, sampling, at_once):
        numbered = enumerate(prompts)
        while batch := list(itertools.islice(numbered, at_once)):
            self.batches.append(len(batch))
            self.wait(2)
            for number, prompt in batch:
                texts = [self.text.replace("SEED", str(seed)) for seed in prompt.seeds]
                completions = tuple(torch.tensor([*self.builder.encode(text), self.builder.eos_id]) for text in texts)
                finished = tuple(seed != 9 for seed in prompt.seeds)
                yield number, RolloutGroup(completions, (torch.zeros(1),) * len(texts), finished)


@pytest.fixture
def make_engine(tiny_builder, wait):
    return lambda text: Engine(tiny_builder, text, wait)


@pytest.fixture
def examples(synthetic, tiny_builder):
    samples = load_samples(synthetic / "train.jsonl")
    settings = VideoSettings(fps=0.5, max_tokens=16)
    video = load_video(samples[0].video, clip=None, settings=settings, geometry=tiny_builder.geometry)
    return [GroundingExample(sample, tiny_builder.build(sample.query, video)) for sample in samples]


def test_answers_carry_what_was_said(examples, tiny_builder, make_engine):
    engine = make_engine("<think>a</think><answer>1.0s to 2.0s</answer>")
    found = [one for (one,) in answer_groups(engine, tiny_builder, examples, SAMPLING, 4)]
    assert [prediction.id for prediction in found] == [example.sample.id for example in examples]
    assert all(prediction.answer == (1.0, 2.0) and prediction.failure is None for prediction in found)
    assert engine.batches == [4, 2]
    said = len(tiny_builder.encode(engine.text)) + 1
    assert {prediction.tokens for prediction in found} == {said}


def test_what_they_begin_with_is_not_theirs(examples, tiny_builder):
    class Goer:
        def stream(self, prompts, sampling, at_once):
            for number, prompt in enumerate(prompts):
                rest = [*tiny_builder.encode("1s to 2s</answer>"), tiny_builder.eos_id]
                yield number, RolloutGroup((torch.tensor([*prompt.prefixes[0], *rest]),), (torch.zeros(1),), (True,))

    ((found,), *_) = answer_groups(Goer(), tiny_builder, examples, SAMPLING, 4, start="<answer>")
    assert found.completion == "<answer>1s to 2s</answer>" and found.answer == (1.0, 2.0)
    assert found.tokens == len(tiny_builder.encode("1s to 2s</answer>")) + 1


def test_examples_without_a_prompt_are_said_why_and_wait_for_no_end(examples, tiny_builder, make_engine):
    examples[0] = replace(examples[0], prompt=None, failure="VideoError: broken")
    examples[5] = replace(examples[5], prompt=None, failure="PromptError: too long")
    engine = make_engine("<think>a")
    found = [one for (one,) in answer_groups(engine, tiny_builder, examples, SAMPLING, 1)]
    assert len(found) == 6 and engine.batches == [1] * 4
    broken, refused = found[1], found[5]
    assert (broken.id, broken.failure, broken.reason) == (examples[0].sample.id, "unreadable_video", "VideoError: broken")
    assert (refused.id, refused.failure, refused.reason) == (examples[5].sample.id, "refused_prompt", "PromptError: too long")


def test_seconds_are_those_of_generation_shared_equally(examples, tiny_builder, make_engine, wait):
    """Not those of waiting for videos, and not those of the one who takes the answers."""

    def slowly():
        for example in examples:
            wait(100)
            yield example

    seconds = []
    for (prediction,) in answer_groups(make_engine("<think>a"), tiny_builder, slowly(), SAMPLING, 4):
        wait(100)
        seconds.append(prediction.seconds)
    assert seconds == [0.5] * 4 + [1.0] * 2


def test_the_clock_shares_time_equally(wait):
    clock, seconds = SharedClock(), {}

    def wait_running(duration):
        clock.go_on()
        wait(duration)
        clock.pause()
        wait(100)

    wait_running(5)  # nobody is in
    clock.seconds[0] = 0.0
    wait_running(1)
    clock.seconds[1] = 0.0
    wait_running(4)
    clock.seconds[2] = 0.0
    clock.go_on()
    wait_running(3)
    seconds[1] = clock.seconds.pop(1)
    wait_running(2)
    assert seconds | clock.seconds == {0: 1 + 2 + 1 + 1, 1: 2 + 1, 2: 1 + 1}


def test_several_answers_to_each_sample(examples, tiny_builder, make_engine):
    """Of which some are cut."""
    seeds = {example.sample.id: tuple(range(8, 9 + number)) for number, example in enumerate(examples)}
    engine = make_engine("<think>a</think><answer>SEEDs to 9")
    groups = list(answer_groups(engine, tiny_builder, examples[:4], SAMPLING, 1, lambda sample: seeds[sample.id]))
    assert [len(group) for group in groups] == [1, 2, 3, 4]
    assert [one.failure for one in groups[3]] == ["no_answer", "cut_completion", "no_answer", "no_answer"]
    assert [one.seconds for one in groups[3]] == [0.5] * 4
    engine.text += "s</answer>"
    groups = list(answer_groups(engine, tiny_builder, examples[:2], SAMPLING, 1, lambda sample: seeds[sample.id]))
    assert [[one.answer for one in group] for group in groups] == [[(8.0, 9.0)], [(8.0, 9.0), (9.0, 9.0)]]
