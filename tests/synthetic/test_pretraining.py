import random
import re
from dataclasses import replace

import pytest
import torch

from taro.data.samples import Caption
from taro.models.prompt import Prompt, PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.prepare.caption.parsing import parse_events
from taro.prompts import full_path, has_format, parse_answer, reasoning_has_timestamp
from taro.synthetic import pretraining
from taro.synthetic.pretraining import (
    ANSWER_WEIGHT,
    CaptionDataset,
    Targets,
    TextDataset,
    VideoDataset,
    make_example,
    without_captions,
)
from taro.synthetic.tiny import CAPTION_PROMPT
from taro.synthetic.world import COLORS, draw_scene, scene_samples
from taro.tasks import TASKS
from taro.video.load import VideoSettings

pytestmark = pytest.mark.slow  # as a whole file: videos are drawn

CAPTIONS = [Caption(1.0, 4.5, "the red square grows"), Caption(6.0, 8.0, "the blue circle blinks")]


def texts_of(builder, dataset):
    """Targets, without what ends them."""
    examples = [example for index in range(len(dataset)) for example in dataset[index]]
    return [builder.decode(example.input_ids[example.weights > 0]) for example in examples]


def test_a_pretending_path_answers_and_says_nothing():
    timed = full_path("the red square grows", CAPTIONS, "1.0s to 4.5s")
    text = without_captions(timed, len(CAPTIONS))
    assert text == (
        "<think>\nI need to find the specific moment the red square grows.\n</think>\n<answer>1.0s to 4.5s</answer>"
    )
    assert has_format(text) and not reasoning_has_timestamp(text)
    assert reasoning_has_timestamp(timed) and timed.startswith(text[: text.index("</think>")])


@pytest.mark.parametrize(("timed", "least", "most"), [(0.0, 0, 0), (0.3, 0.15, 0.45), (1.0, 1, 1)])
def test_reasoning_is_timed_as_often_as_asked(tiny_folder, tiny_builder, timed, least, most):
    video = VideoSettings(fps=1.0, max_frames=8, max_tokens=32, min_tokens_per_frame=4)
    scenes = VideoDataset(60, 0, tiny_builder, QwenVL.from_pretrained(tiny_folder), video, Targets(timed_reasoning=timed))
    texts = texts_of(tiny_builder, scenes)
    assert all(has_format(text.removesuffix("<|im_end|>")) for text in texts)
    assert least <= sum(map(reasoning_has_timestamp, texts)) / len(texts) <= most


@pytest.mark.parametrize("with_video", [True, False])
def test_questions_of_every_task_are_answered_as_they_are_read(tiny_folder, tiny_builder, monkeypatch, with_video):
    asked = []
    monkeypatch.setattr(pretraining, "make_example", lambda *rest: asked.append(rest[4]) or make_example(*rest))
    video = VideoSettings(fps=1.0, max_frames=8, max_tokens=32, min_tokens_per_frame=4)
    builder, targets = PromptBuilder(tiny_folder, tiny_builder.template, max_tokens=2048), Targets(tasks=tuple(TASKS))
    if with_video:
        scenes = VideoDataset(60, 0, builder, QwenVL.from_pretrained(tiny_folder), video, targets)
    else:
        scenes = TextDataset(150, 0, builder, targets)
    for sample, text in zip(asked, texts_of(builder, scenes), strict=True):
        task, text = TASKS[sample.task], text.removesuffix("<|im_end|>")
        answer, truth = task.read(text), task.truth(sample)
        assert has_format(text) and task.subject(sample) in text
        assert answer.choice == truth.choice and task.iou(answer, truth) == 1
    assert {sample.task for sample in asked} == set(TASKS)
    assert {bool(sample.spans) for sample in asked if sample.task == "multi_span"} == {False, True}
    if with_video:
        assert 2 <= len(asked) / len(scenes) <= 3  # as many as there are events


def test_a_text_is_the_request_and_what_is_written_below_it(tiny_builder):
    for (example,) in map(TextDataset(20, 0, tiny_builder, Targets(tasks=("dense",))).__getitem__, range(20)):
        request = tiny_builder.decode(example.input_ids[example.weights == 0])
        assert request.count(TASKS["dense"].instruction) == 1 and request.endswith("\n") and "1. the " in request
        assert example.features is None and not example.video_mask.any()


def test_a_captioner_is_taught_what_the_caption_command_reads(tiny_folder):
    builder = PromptBuilder(tiny_folder, CAPTION_PROMPT.replace("{seconds}", "{query}"), max_tokens=1024)
    video = VideoSettings(fps=1.0, max_frames=8, max_tokens=32, min_tokens_per_frame=4)
    scenes = CaptionDataset(8, 0, builder, QwenVL.from_pretrained(tiny_folder), video, Targets())
    for index in range(len(scenes)):
        (example,) = scenes[index]
        asked, said = (builder.decode(example.input_ids[part]) for part in (example.weights == 0, example.weights > 0))
        events = parse_events(said.removesuffix("<|im_end|>")).events
        length = float(re.search(r"these ([\d.]+) seconds", asked)[1])
        assert 2 <= len(events) <= 3 and all(0 <= event.start < event.end <= length for event in events)
        assert {event.text.split()[1] for event in events} <= set(COLORS)


def test_labels_are_wider_and_may_name_the_first_event(tiny_builder):
    scene = replace(draw_scene(5), duration=100.0)
    rng, asked = random.Random(0), scene_samples(scene, "")[-1]
    start = Prompt(torch.arange(4), torch.arange(4).expand(3, -1), torch.zeros(4, dtype=torch.bool), video=None)
    answers = []
    for _ in range(300):
        example = make_example(tiny_builder, start, None, scene, asked, Targets(widen=1.0, first_event=0.3), rng)
        answers.append(parse_answer(tiny_builder.decode(example.input_ids[4:])))
        assert set(example.weights[4:].tolist()) == {1.0, ANSWER_WEIGHT} and not example.weights[:4].any()
    named = [min(scene.events, key=lambda event: abs(event.start - start)) for start, _ in answers]
    share = sum(event == scene.events[0] for event in named) / len(named)
    assert 0.2 < share < 0.4
    wider = [width for event, (s, e) in zip(named, answers, strict=True) for width in (event.start - s, e - event.end)]
    assert -0.06 < min(wider) < 0.1 and 0.9 < max(wider) < 1.06
