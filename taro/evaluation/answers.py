"""The answers of an engine to samples, as they come."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch.utils.data import DataLoader

from taro.data.before_run import find_missing
from taro.data.dataset import GroundingDataset
from taro.data.examples import GroundingExample
from taro.data.rows import durations_agree
from taro.data.samples import Sample
from taro.evaluation.predictions import MISSING_VIDEO, REFUSED_PROMPT, UNREADABLE_VIDEO, Prediction
from taro.models.prompt import PromptBuilder, PromptError
from taro.models.settings import GroundingSettings
from taro.rollout import RolloutEngine, RolloutPrompt, SamplingSettings

logger = logging.getLogger(__name__)

Seeds = Callable[[Sample], Sequence[int]]  # one for each completion that is asked for


def one_greedy(sample: Sample) -> tuple[int]:
    """The seeds of a single completion, where nothing is drawn."""
    return (0,)


def still_to_ask(samples: Iterable[Sample], failures: Mapping[str, str | None]) -> list[Sample]:
    """Those without an entry, and those whose video was missing and is there now.

    Args:
        samples: all that are asked for.
        failures: of those that were asked about already, by id: a key of FAILURES, or None.
    """
    return [
        sample
        for sample in samples
        if sample.id not in failures or (failures[sample.id] == MISSING_VIDEO and os.path.exists(sample.video))
    ]


def answer_samples(
    samples: Sequence[Sample],
    start: Callable[[], RolloutEngine],
    builder: PromptBuilder,
    grounding: GroundingSettings,
    sampling: SamplingSettings,
    *,
    at_once: int,
    workers: int,
    seeds: Seeds = one_greedy,
) -> Iterator[list[Prediction]]:
    """The predictions of each sample, as they come: of each completion, or a single one that says why there is none. Samples
    without a video come first, since nothing has to be loaded for them.

    Args:
        samples: each is asked about once.
        start: makes the engine, once there is a video.
        builder: of the prompts.
        grounding: which frames are shown.
        sampling: of the completions.
        at_once: so many samples are in the engine.
        workers: processes that decode videos ahead.
        seeds: of the completions of a sample.
    """
    missing = find_missing(sample.video for sample in samples)
    lost = [sample for sample in samples if sample.video in missing]
    for sample in lost:
        yield [Prediction.failed(sample, MISSING_VIDEO, f"{sample.video} does not exist")]
    asked = [sample for sample in samples if sample.video not in missing]
    if asked:
        dataset = GroundingDataset(asked, builder, grounding)
        examples = DataLoader(dataset, batch_size=None, collate_fn=_same, num_workers=workers)
        yield from answer_groups(start(), builder, _compare_durations(examples), sampling, at_once, seeds)


def answer_groups(
    engine: RolloutEngine,
    builder: PromptBuilder,
    examples: Iterable[GroundingExample],
    sampling: SamplingSettings,
    at_once: int,
    seeds: Seeds = one_greedy,
) -> Iterator[list[Prediction]]:
    """The predictions of each example: of each of its completions, or a single one that says why it has no prompt.

    Args:
        engine: with the weights that are asked.
        builder: of the examples' prompts.
        examples: taken when the engine has room.
        sampling: of the completions.
        at_once: so many examples are in the engine.
        seeds: of the completions of a sample.
    """
    failed: list[Prediction] = []
    asked: dict[int, Sample] = {}
    clock = SharedClock()

    def requests() -> Iterator[RolloutPrompt]:
        number = 0
        for example in examples:
            if example.prompt is None:
                failed.append(_without_prompt(example))
                continue
            asked[number] = example.sample
            clock.enter(number)
            clock.go_on()
            own = tuple(seeds(example.sample))
            yield RolloutPrompt(example.prompt, ((),) * len(own), own)
            clock.pause()  # the next video may have to be waited for
            number += 1
        clock.go_on()  # the engine is left with what it has

    for number, group in engine.stream(requests(), sampling, at_once):
        clock.pause()
        seconds, sample = clock.leave(number) / len(group.completions), asked.pop(number)
        texts = [builder.decode(completion) for completion in group.completions]
        yield [
            Prediction.answered(sample, text, finished, seconds)
            for text, finished in zip(texts, group.finished, strict=True)
        ]
        while failed:
            yield [failed.pop(0)]
        clock.go_on()
    yield from ([prediction] for prediction in failed)


class SharedClock:
    """Time shared equally by those who are in at the same time: the shares add up to the time that passed with any in."""

    def __init__(self) -> None:
        self.share = 0.0  # of one who was in from the start
        self.entered: dict[int, float] = {}
        self.running_since: float | None = None

    def enter(self, number: int) -> None:
        self._advance()
        self.entered[number] = self.share

    def leave(self, number: int) -> float:
        """Their share in seconds."""
        self._advance()
        return self.share - self.entered.pop(number)

    def go_on(self) -> None:
        self._advance()
        self.running_since = time.perf_counter()

    def pause(self) -> None:
        self._advance()
        self.running_since = None

    def _advance(self) -> None:
        if self.running_since is not None:
            now = time.perf_counter()
            if self.entered:
                self.share += (now - self.running_since) / len(self.entered)
            self.running_since = now


def _compare_durations(examples: Iterable[GroundingExample]) -> Iterator[GroundingExample]:
    """The examples; when they are through, the log says how many samples state another duration than their video has."""
    wrong: list[str] = []
    for example in examples:
        if example.prompt is not None:
            stated, found = example.sample.duration, example.prompt.video.duration
            if not durations_agree(stated, found):
                wrong.append(f"{example.sample.id}: {stated:g} s against {found:.2f} s")
        yield example
    if wrong:
        logger.warning(
            f"{len(wrong)} samples state another duration than their video has, the first is {wrong[0]}. Answers and "
            "metrics don't depend on it; but is it the right video?"
        )


def _without_prompt(example: GroundingExample) -> Prediction:
    refused = example.failure.startswith(PromptError.__name__)
    return Prediction.failed(example.sample, REFUSED_PROMPT if refused else UNREADABLE_VIDEO, example.failure)


def _same(example: GroundingExample) -> GroundingExample:
    return example
