import itertools
import time
from dataclasses import replace

import pytest
import torch

from taro.data.examples import GroundingExample
from taro.data.samples import load_samples
from taro.evaluation import answers
from taro.evaluation.answers import SharedClock, answer_groups, answer_samples, still_to_ask
from taro.models.settings import GroundingSettings
from taro.rollout import RolloutGroup, SamplingSettings
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.load import VideoSettings, load_video

SAMPLING = SamplingSettings(0.0, 8)


class SleepyEngine:
    """Takes `seconds` for each batch of up to `at_once` prompts, and finishes none but the first completion."""

    def __init__(self, ids, seconds=0.0):
        self.ids, self.seconds, self.batches, self.slept = ids, seconds, [], []

    def stream(self, prompts, sampling, at_once):
        numbered = enumerate(prompts)
        while batch := list(itertools.islice(numbered, at_once)):
            self.batches.append(len(batch))
            start = time.perf_counter()
            time.sleep(self.seconds)
            self.slept.append(time.perf_counter() - start)
            for number, _ in batch:
                yield number, RolloutGroup((torch.tensor(self.ids),), (torch.zeros(1),), (number == 0,))


@pytest.fixture
def examples(synthetic, tiny_builder):
    samples = load_samples(synthetic / "train.jsonl")
    settings = VideoSettings(fps=0.5, max_tokens=16)
    video = load_video(samples[0].video, clip=None, settings=settings, geometry=tiny_builder.geometry)
    return [GroundingExample(sample, tiny_builder.build(sample.query, video)) for sample in samples]


def answer(*arguments):
    """One prediction for each example."""
    for (prediction,) in answer_groups(*arguments):
        yield prediction


def ids_of(builder, text):
    return [*builder.encode(text), builder.eos_id]


def test_answers_carry_what_was_said(examples, tiny_builder):
    engine = SleepyEngine(ids_of(tiny_builder, "<think>a</think><answer>1.0s to 2.0s</answer>"))
    found = list(answer(engine, tiny_builder, examples, SAMPLING, 4))
    assert [prediction.id for prediction in found] == [example.sample.id for example in examples]
    assert all(prediction.answer == (1.0, 2.0) and prediction.failure is None for prediction in found)
    assert engine.batches == [4, 2]


def test_whether_a_completion_was_cut_is_kept(examples, tiny_builder):
    engine = SleepyEngine(ids_of(tiny_builder, "<think>a"))
    found = list(answer(engine, tiny_builder, examples, SAMPLING, 4))
    assert [prediction.failure for prediction in found] == ["no_answer"] + 5 * ["cut_completion"]


def test_examples_without_a_prompt_are_said_why(examples, tiny_builder):
    examples[1] = replace(examples[1], prompt=None, failure="VideoError: broken")
    examples[5] = replace(examples[5], prompt=None, failure="PromptError: too long")
    engine = SleepyEngine(ids_of(tiny_builder, "<think>a"))
    found = {prediction.id: prediction for prediction in answer(engine, tiny_builder, examples, SAMPLING, 2)}
    assert len(found) == 6 and engine.batches == [2, 2]
    broken, refused = found[examples[1].sample.id], found[examples[5].sample.id]
    assert (broken.failure, broken.reason) == ("unreadable_video", "VideoError: broken")
    assert (refused.failure, refused.reason) == ("refused_prompt", "PromptError: too long")


def test_failed_ones_do_not_wait_for_the_end(examples, tiny_builder):
    examples[0] = replace(examples[0], prompt=None, failure="VideoError: broken")
    engine = SleepyEngine(ids_of(tiny_builder, "<think>a"))
    first_two = itertools.islice(answer(engine, tiny_builder, examples, SAMPLING, 1), 2)
    assert examples[0].sample.id in [prediction.id for prediction in first_two]


def test_seconds_are_those_of_generation_shared_equally(examples, tiny_builder):
    """Not those of waiting for videos, and not those of the one who takes the answers."""

    def slowly():
        for example in examples:
            time.sleep(0.1)
            yield example

    engine = SleepyEngine(ids_of(tiny_builder, "<think>a"), seconds=0.4)
    found = []
    for prediction in answer(engine, tiny_builder, slowly(), SAMPLING, 4):
        time.sleep(0.1)
        found.append(prediction)
    seconds = [prediction.seconds for prediction in found]
    for part, slept in zip((seconds[:4], seconds[4:]), engine.slept, strict=True):
        assert sum(part) == pytest.approx(slept, abs=0.1)
        assert part == pytest.approx([slept / len(part)] * len(part), abs=0.05)


def test_the_clock_shares_time_equally(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(answers.time, "perf_counter", lambda: now[0])
    clock, seconds = SharedClock(), {}

    def wait(duration):
        now[0] += duration

    clock.go_on()
    wait(5)  # nobody is in
    clock.enter(0)
    wait(1)
    clock.enter(1)
    wait(4)
    clock.pause()
    wait(100)
    clock.enter(2)
    wait(100)
    clock.go_on()
    wait(3)
    seconds[1] = clock.leave(1)
    wait(2)
    seconds[0], seconds[2] = clock.leave(0), clock.leave(2)
    assert seconds == {0: 1 + 2 + 1 + 1, 1: 2 + 1, 2: 1 + 1}
    assert sum(seconds.values()) == 10


class GroupEngine:
    """Says each seed of each prompt, and takes 0.2 s for a prompt."""

    def __init__(self, builder):
        self.builder = builder

    def stream(self, prompts, sampling, at_once):
        for number, prompt in enumerate(prompts):
            time.sleep(0.2)
            texts = [f"<think>a</think><answer>{seed}s to 9s</answer>" for seed in prompt.seeds]
            completions = tuple(torch.tensor(ids_of(self.builder, text)) for text in texts)
            finished = tuple(seed != 2 for seed in prompt.seeds)
            yield number, RolloutGroup(completions, (torch.zeros(1),) * len(texts), finished)


def test_several_answers_to_each_sample(examples, tiny_builder):
    examples[1] = replace(examples[1], prompt=None, failure="VideoError: broken")
    seeds = {example.sample.id: tuple(range(1, 2 + number)) for number, example in enumerate(examples)}
    engine = GroupEngine(tiny_builder)
    groups = list(answer_groups(engine, tiny_builder, examples[:4], SAMPLING, 1, lambda sample: seeds[sample.id]))
    found = {group[0].id: group for group in groups}
    assert len(groups) == 4 and [one.failure for one in found[examples[1].sample.id]] == ["unreadable_video"]
    for number in (0, 2, 3):
        group = found[examples[number].sample.id]
        assert [one.answer for one in group] == [(float(seed), 9.0) for seed in range(1, 2 + number)]
        assert sum(one.seconds for one in group) == pytest.approx(0.2, abs=0.1)
        assert len({one.seconds for one in group}) == 1


def test_samples_without_a_video_come_first_and_need_no_engine(synthetic, tiny_builder, examples, tmp_path):
    samples = load_samples(synthetic / "train.jsonl")
    samples[2:4] = [replace(sample, video=str(tmp_path / "gone.mp4")) for sample in samples[2:4]]
    started = []

    def start():
        started.append(1)
        return GroupEngine(tiny_builder)

    grounding = GroundingSettings(TINY_PROMPT, VideoSettings(fps=0.5, max_tokens=16), 1024)
    found = answer_samples(samples, start, tiny_builder, grounding, SAMPLING, at_once=1, workers=0, seeds=lambda _: (1, 2))
    lost = list(itertools.islice(found, 2))
    assert [group[0].id for group in lost] == [sample.id for sample in samples[2:4]] and not started
    assert [one.failure for group in lost for one in group] == ["missing_video"] * 2
    assert lost[0][0].reason == f"{tmp_path}/gone.mp4 does not exist"
    rest = list(found)
    assert [group[0].id for group in rest] == [sample.id for sample in samples[:2] + samples[4:]] and started == [1]
    assert all([one.answer for one in group] == [(1.0, 9.0), (2.0, 9.0)] for group in rest)
    (tmp_path / "gone.mp4").touch()
    failures = {samples[1].id: "unreadable_video", samples[2].id: "missing_video", samples[4].id: None}
    assert still_to_ask(samples[:5], failures) == [samples[0], samples[2], samples[3]]
    (tmp_path / "gone.mp4").unlink()
    assert still_to_ask(samples[:5], failures) == [samples[0], samples[3]]
