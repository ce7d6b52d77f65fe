"""Captions by a Qwen-VL model through a rollout engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from taro.models.prompt import PromptBuilder, PromptError
from taro.prepare.caption.captioner import Answer
from taro.prepare.caption.settings import PLACEHOLDER, CaptionSettings
from taro.prepare.caption.windows import WindowTask
from taro.prompts import format_seconds
from taro.rollout import RolloutEngine, RolloutPrompt, SamplingSettings
from taro.rollout.start import longest_prompt, start_engine
from taro.video.load import Video


class EngineCaptioner:
    """Greedy answers of an engine.

    Args:
        engine: generates.
        builder: of prompts whose query is the window's length.
        sampling: of the answers.
        at_once: windows worked on together.
    """

    def __init__(self, engine: RolloutEngine, builder: PromptBuilder, sampling: SamplingSettings, at_once: int) -> None:
        self.engine, self.builder, self.sampling, self.at_once = engine, builder, sampling, at_once

    def answer(self, windows: Iterable[tuple[WindowTask, Video]]) -> Iterator[tuple[WindowTask, Answer]]:
        """An answer for each window, as they come.

        Raises:
            EngineError: the engine failed.
        """
        asked: list[WindowTask] = []
        refused: list[tuple[WindowTask, Answer]] = []

        def requests() -> Iterator[RolloutPrompt]:
            for task, video in windows:
                try:
                    prompt = self.builder.build(format_seconds(task.window.length), video)
                except PromptError as error:
                    refused.append((task, Answer(failure=f"PromptError: {error}")))
                else:
                    asked.append(task)
                    yield RolloutPrompt(prompt, ((),), (0,))

        for number, group in self.engine.stream(requests(), self.sampling, self.at_once):
            yield asked[number], Answer(self.builder.decode(group.completions[0]), cut=not group.finished[0])
            while refused:
                yield refused.pop(0)
        yield from refused


def caption_builder(settings: CaptionSettings) -> PromptBuilder:
    """The builder of prompts for the settings' model; loads no weights.

    Raises:
        ModelError: not a Qwen-VL model.
    """
    template = settings.prompt.replace(PLACEHOLDER, "{query}")
    longest = longest_prompt(settings.max_prompt_tokens, settings.max_tokens, settings.engine, settings.vllm)
    return PromptBuilder(settings.model, template, longest)


def start_captioner(settings: CaptionSettings, builder: PromptBuilder) -> EngineCaptioner:
    """Load the model.

    Raises:
        EngineError: vLLM can't run it.
    """
    engine = start_engine(
        settings.engine,
        builder,
        max_tokens=settings.max_tokens,
        device=settings.device,
        dtype=settings.dtype,
        vllm=settings.vllm,
    )
    sampling = SamplingSettings(0.0, settings.max_tokens, settings.repetition_penalty)
    return EngineCaptioner(engine, builder, sampling, settings.batch_size)
