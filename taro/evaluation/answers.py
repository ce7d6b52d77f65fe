"""The answers of an engine to examples, as they come, and the seconds that each took."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from taro.data.examples import GroundingExample
from taro.data.samples import Sample
from taro.evaluation.predictions import MISSING_VIDEO, REFUSED_PROMPT, UNREADABLE_VIDEO, Prediction
from taro.models.prompt import PromptBuilder, PromptError
from taro.rollout import RolloutEngine, RolloutPrompt, SamplingSettings

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


def answer_groups(
    engine: RolloutEngine,
    builder: PromptBuilder,
    examples: Iterable[GroundingExample],
    sampling: SamplingSettings,
    at_once: int,
    seeds: Seeds = one_greedy,
    start: str = "",
) -> Iterator[list[Prediction]]:
    """The predictions of each example: of each of its completions, or a single one that says why it has no prompt.

    Args:
        engine: with the weights that are asked.
        builder: of the examples' prompts.
        examples: taken when the engine has room.
        sampling: of the completions.
        at_once: so many examples are in the engine.
        seeds: of the completions of a sample.
        start: what every completion begins with; the model goes on from there.
    """
    prefix = tuple(builder.encode(start)) if start else ()
    failed: list[Prediction] = []
    asked: list[Sample] = []
    clock = SharedClock()

    def requests() -> Iterator[RolloutPrompt]:
        for example in examples:
            if example.prompt is None:
                refused = example.failure.startswith(PromptError.__name__)
                kind = REFUSED_PROMPT if refused else UNREADABLE_VIDEO
                failed.append(Prediction.failed(example.sample, kind, example.failure))
                continue
            clock.seconds[len(asked)] = 0.0
            asked.append(example.sample)
            own = tuple(seeds(example.sample))
            clock.go_on()
            yield RolloutPrompt(example.prompt, (prefix,) * len(own), own)
            clock.pause()  # the next video may have to be waited for
        clock.go_on()  # the engine is left with what it has

    for number, group in engine.stream(requests(), sampling, at_once):
        clock.pause()
        seconds = clock.seconds.pop(number) / len(group.completions)
        yield [
            Prediction.answered(
                asked[number], builder.decode(completion), finished, seconds, len(completion) - len(prefix)
            )
            for completion, finished in zip(group.completions, group.finished, strict=True)
        ]
        while failed:
            yield [failed.pop(0)]
        clock.go_on()
    yield from ([prediction] for prediction in failed)


class SharedClock:
    """Time shared equally by those who are in at the same time, `seconds` of each. They come and go while it is paused."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.running_since: float | None = None

    def go_on(self) -> None:
        self.pause()
        self.running_since = time.perf_counter()

    def pause(self) -> None:
        if self.running_since is not None:
            passed = time.perf_counter() - self.running_since
            for number in self.seconds:
                self.seconds[number] += passed / len(self.seconds)
        self.running_since = None
