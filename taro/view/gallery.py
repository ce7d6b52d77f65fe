"""The samples of a report as a page's script reads them, and the orders in which it shows them. `N` samples."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.tasks import find_task
from taro.view.evaluated import Evaluated
from taro.view.timeline import axis_length, find_times

PAGE = 20  # samples that are shown at once
SEED = 0


def gallery_rows(runs: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """One for each sample, in the order of the first run; the answers of each run, short keys: there are thousands."""
    rows, mixed = [], len({sample.task for sample in runs[0].samples}) > 1
    others = [{one.id: one for one in run.predictions} for run in runs]
    for sample in runs[0].samples:
        answers = [run[sample.id] for run in others]
        spans = [*sample.spans, *(span for one in answers for span in one.reading.spans or ())]
        rows.append(
            {
                "id": sample.id,
                "q": sample.query,
                "t": [list(span) for span in sample.spans],
                "d": round(axis_length(sample.duration, spans), 3),
                "known": int(not math.isnan(sample.duration)),
                "runs": [_answer(one) for one in answers],
                **({"k": sample.task} if mixed else {}),
            }
        )
    return rows


def _answer(prediction: Prediction) -> dict[str, Any]:
    row = {
        "a": prediction.answer and list(prediction.answer),
        "i": round(prediction.iou, 4),
        "c": prediction.completion,
        "n": [end for time in find_times(prediction.completion) for end in (time.start, time.end)],
    }
    return row | shown_spans(prediction.task, prediction.completion) | _failure(prediction)


def _failure(prediction: Prediction) -> dict[str, Any]:
    return {"f": prediction.failure, "r": prediction.reason} if prediction.failure else {}


def shown_spans(task: str, completion: str | None) -> dict[str, Any]:
    """All spans that a completion answers, where the task asks for more than one and they can be read."""
    if find_task(task).single or completion is None:
        return {}
    spans = find_task(task).read(completion).spans
    return {} if spans is None else {"s": [list(span) for span in spans]}


def gallery_orders(runs: Sequence[Evaluated]) -> dict[str, list[int]]:
    """Places of the samples by what comes first; the last run counts where there are two, and how far it is from the first.

    Of answers that score the same, the worst is farthest from the truth; samples without an answer come after all others.
    """
    last = {one.id: one for one in runs[-1].predictions}
    ordered = [last[sample.id] for sample in runs[0].samples]
    places = list(range(len(ordered)))
    orders = {
        "worst": sorted(places, key=lambda k: (ordered[k].answer is None, ordered[k].iou, -_distance(ordered[k]))),
        "best": sorted(places, key=lambda k: -ordered[k].iou),
        "random": random.Random(SEED).sample(places, len(places)),
        "file": places,
    }
    if len(runs) > 1:
        first = {one.id: one for one in runs[0].predictions}
        changes = [one.iou - first[one.id].iou for one in ordered]
        orders = {
            "differ": sorted(places, key=lambda k: -abs(changes[k])),
            "gained": sorted(places, key=lambda k: -changes[k]),
            "lost": sorted(places, key=lambda k: changes[k]),
        } | orders
    return orders


def _distance(prediction: Prediction) -> float:
    """Seconds between the middles of the answer and of the nearest true span."""
    if prediction.answer is None:
        return math.inf
    return min((abs(sum(prediction.answer) - sum(span)) / 2 for span in prediction.spans), default=math.inf)


def shown_first(samples: Sequence[Sample], orders: dict[str, list[int]], page: int = PAGE) -> list[Sample]:
    """The samples of the first page of each order, those at the top of any first."""
    tops = [places[:page] for places in orders.values()]
    found = dict.fromkeys(top[k] for k in range(page) for top in tops if k < len(top))
    return [samples[place] for place in found]
