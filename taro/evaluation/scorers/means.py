"""Scores that are means over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.spans import Span

ScoreAnswer = Callable[[Sequence[Span], Sequence[Span]], Mapping[str, float]]


def mean_scores(score_answer: ScoreAnswer, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, float]:
    """In percent, of what each answer and its truth score; an answer that can't be read has no spans."""
    scores = [
        score_answer(prediction.reading.spans or (), sample.spans)
        for sample, prediction in zip(samples, predictions, strict=True)
    ]
    return {name: 100 * fmean(one[name] for one in scores) for name in scores[0]}
