"""HI-VTG and SS-VTG (RA-RFT, arXiv 2511.23151): is it said whether the event occurs, and when.

As src/llm_eval of github.com/JINSUBY/RA-RFT counts, but for who reads an answer: a language model there, the answer block here.
Only one that says that there is no such event is a refusal; one that can't be read is none. Scores of explanations, which a
language model gives there, are left out.

The IoU there is that of one span with one window, also where a query has several: with the one that a row's `scored_span` is
(`taro.prepare.convert`), or else with the best of its spans. Of an answer with several spans the language model chooses one:
here it is the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from taro.data.samples import Sample
from taro.evaluation.predictions import EvaluationError, Prediction
from taro.evaluation.scores import IOU_LEVELS
from taro.messages import describe_fault
from taro.rows import is_number
from taro.spans import Span, best_iou

SCORED = "scored_span"


def score(samples: Sequence[Sample], predictions: Sequence[Prediction], strict: bool) -> dict[str, float]:
    """The IoU of a right refusal is 1 and that of a wrong one 0, so that always refusing gets an RA-IoU of the share of queries
    that don't occur; `refusal_joint` of the task gives it 0."""
    absent = [not sample.spans for sample in samples]
    refused = [prediction.reading.spans == () for prediction in predictions]
    pairs = list(zip(absent, refused, strict=True))
    ious = [
        float(refuses) if is_absent else best_iou(next(iter(prediction.reading.spans or ()), None), _scored(sample))
        for sample, prediction, (is_absent, refuses) in zip(samples, predictions, pairs, strict=True)
    ]
    scores = {"accuracy": fmean(is_absent == refuses for is_absent, refuses in pairs), "RA-IoU": fmean(ious)}
    for level in IOU_LEVELS:
        scores[f"R@{level}"] = fmean(iou > level if strict else iou >= level for iou in ious)
    for kind, irrelevant in (("relevant", False), ("irrelevant", True)):
        right = pairs.count((irrelevant, irrelevant))
        said, true = refused.count(irrelevant), absent.count(irrelevant)
        precision, recall, f1 = right / max(said, 1), right / max(true, 1), 2 * right / max(said + true, 1)
        scores |= {f"{kind} precision": precision, f"{kind} recall": recall, f"{kind} F1": f1}
    return {name: 100 * value for name, value in scores.items()}


def _scored(sample: Sample) -> Sequence[Span]:
    span = sample.extra.get(SCORED)
    if span is None:
        return sample.spans
    if not (isinstance(span, list | tuple) and len(span) == 2 and all(map(is_number, span))):
        raise EvaluationError(f"sample {sample.id}: {describe_fault(SCORED, span, '[start, end], two numbers (seconds)')}")
    return (tuple(span),)
