"""Answers in two passes, for long videos: the whole video with few frames a minute, then the part around the first answer with
as many frames as the whole had.

    python eval.py --annotations F --model DIR --output outputs/eval/zoomed --zoom

Both passes ask the same question in the same words, and the settings of videos hold for both: in three hours the default 1,024
frames are 10 s apart, in a part of ten minutes 0.6 s. No more than these frames are ever held. Times of the second answer, and
those that its reasoning names, are put back into the clock of the whole. Questions of other tasks than `temporal grounding`
have their first answer, and so have those where there is no part to look at, or nothing was found in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.prompts import shift_times
from taro.spans import Span
from taro.tasks import DEFAULT

MARGIN = 0.05  # of the video, that is shown on either side of the first answer; or as much as the answer is long
LARGEST = 0.5  # of the video: a larger part would show little more than the whole

Ask = Callable[[Sequence[Sample]], Iterable[Prediction]]


def choose_part(answer: Span | None, duration: float) -> Span | None:
    """What to look at again of a video of so many seconds: (start, end) in whole seconds, so that times keep their decimals;
    None where that is nothing, or most of the video."""
    if answer is None or not math.isfinite(duration):
        return None
    first, last = sorted(answer)
    margin = max(MARGIN * duration, last - first)
    start, end = max(0.0, float(math.floor(first - margin))), min(duration, float(math.ceil(last + margin)))
    return (start, end) if 0 < end - start <= LARGEST * duration else None


def zoom_in(samples: Sequence[Sample], first: Mapping[str, Prediction], ask: Ask) -> Iterator[Prediction]:
    """The final answers, as they come.

    Args:
        samples: to be answered.
        first: what they were answered with the whole video, by id.
        ask: gives the answers about parts.
    """
    parts = {
        sample.id: part
        for sample in samples
        if sample.task == DEFAULT and (part := choose_part(first[sample.id].answer, sample.duration)) is not None
    }
    yield from (first[sample.id] for sample in samples if sample.id not in parts)
    asked = {sample.id: sample for sample in samples if sample.id in parts}
    for second in ask([_cut(sample, parts[name]) for name, sample in asked.items()]):
        yield _merge(asked[second.id], parts[second.id], first[second.id], second)


def _cut(sample: Sample, part: Span) -> Sample:
    """What is asked again."""
    begin = 0.0 if sample.clip is None else sample.clip[0]
    return replace(sample, clip=(begin + part[0], begin + part[1]), duration=part[1] - part[0])


def _merge(sample: Sample, part: Span, first: Prediction, second: Prediction) -> Prediction:
    """The second answer in the clock of the whole, or the first where the second can't be read."""
    cost = {"seconds": first.seconds + second.seconds, "tokens": first.tokens + second.tokens}
    if second.answer is None:
        return replace(first, **cost)
    text = shift_times(second.completion, part[0])
    return replace(Prediction.answered(sample, text, True, **cost), first_completion=first.completion, part=part)
