"""VUE-TR-V2: the areas under the curves of IoU, precision and recall, as VUE_TR_V2/qa_eval.py of github.com/bytedance/vidi has
them.

A curve is the share of the queries that reach each of 101 levels from 0 to 1. Answers are rounded outwards to whole seconds.
What this comes to: an IoU must be above a level, so that perfect answers get 99.5, while precision and recall must reach it, so
that an answer without any overlap gets 0.5; an empty answer has no precision, and is not counted there.

The authors' script counts the queries that a file of results has, and this all queries.

N queries, T levels.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.spans import Span, overlap_length, total_length

LEVELS = np.linspace(0, 1, 101)
GROUPS = {
    "duration_category": ("ultra-short", "short", "medium", "long", "ultra-long"),
    "query_format": ("keyword", "phrase", "sentence"),
    "query_modality": ("vision", "audio", "vision+audio"),
}


def score(samples: Sequence[Sample], predictions: Sequence[Prediction], strict: bool) -> dict[str, float]:
    """Of all queries, and of those with each value of each of GROUPS."""
    answers = [_answer(prediction) for prediction in predictions]
    truths = [sample.spans for sample in samples]
    scores = score_answers(answers, truths)
    for name, places in _groups(samples):
        of_group = score_answers([answers[place] for place in places], [truths[place] for place in places])
        scores |= {f"{name} {metric}": value for metric, value in of_group.items()}
    return scores


def submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The rows that qa_eval.py takes as --pred_path."""
    return [
        {"query_id": int(sample.id) if sample.id.isdecimal() else sample.id, "answer": _answer(prediction)}
        for sample, prediction in zip(samples, predictions, strict=True)
    ]


def _answer(prediction: Prediction) -> list[Span]:
    return list(prediction.reading.spans or ())


def _groups(samples: Sequence[Sample]) -> Iterator[tuple[str, list[int]]]:
    for key, names in GROUPS.items():
        for name in names:
            if places := [place for place, sample in enumerate(samples) if sample.extra.get(key) == name]:
                yield name, places


def score_answers(answers: Sequence[Sequence[Span]], truths: Sequence[Sequence[Span]]) -> dict[str, float]:
    """IoU, precision and recall of the answers to N queries; nan where there is none that counts."""
    ious, precisions, recalls = [], [], []
    for answer, truth in zip(answers, truths, strict=True):
        answer = [(float(math.floor(start)), float(math.ceil(end))) for start, end in answer]
        ious.append(iou(answer, truth))
        answer, truth = ([(min(span), max(span)) for span in spans] for spans in (answer, truth))
        shared, answered, true = shared_seconds(answer, truth), _seconds(answer), _seconds(truth)
        if answered or not true:
            precisions.append(shared / answered if answered else 1.0)
        if true:
            recalls.append(shared / true)
    areas = {"IoU": area(ious, operator.gt), "precision": area(precisions, operator.ge), "recall": area(recalls, operator.ge)}
    return {name: 100 * value for name, value in areas.items()}


def iou(answer: Sequence[Span], truth: Sequence[Span]) -> float:
    """Of the union of the answer's spans with the true ones, which are not merged."""
    if not answer or not truth:
        return float(not answer and not truth)
    shared = sum(overlap_length(answer, [span]) for span in truth)
    return min(1.0, shared / (total_length(answer) + _seconds(truth) - shared)) if shared else 0.0


def shared_seconds(first: Sequence[Span], second: Sequence[Span]) -> float:
    """Seconds that are in both, read side by side and as they are listed: of spans in order of time that don't overlap this is
    all that they share, and an answer in another order may lose some."""
    seconds, i, j = 0.0, 0, 0
    while i < len(first) and j < len(second):
        seconds += max(0.0, min(first[i][1], second[j][1]) - max(first[i][0], second[j][0]))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return seconds


def area(values: Sequence[float], reaches: Callable[[Any, Any], Any]) -> float:
    """Under the share of the values that reach each level, by trapezoids; in [0, 1], nan without values."""
    if not values:
        return math.nan
    rates = reaches(np.array(values)[:, None], LEVELS).mean(axis=0)  # (N, T) to (T,)
    return float((rates[1:] + rates[:-1]).mean() / 2)


def _seconds(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)
