"""HI-VTG and SS-VTG (RA-RFT, arXiv 2511.23151): is it said whether the event occurs, and when.

As src/llm_eval of github.com/JINSUBY/RA-RFT counts, but for who reads an answer: a language model there, the answer block here.
Only one that says that there is no such event is a refusal; one that can't be read is none. Scores of explanations, which a
language model gives there, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.evaluation.scores import IOU_LEVELS
from taro.spans import best_iou


def score(samples: Sequence[Sample], predictions: Sequence[Prediction], strict: bool) -> dict[str, float]:
    """The IoU of a right refusal is 1 and that of a wrong one 0, so that always refusing gets an RA-IoU of the share of queries
    that don't occur; `refusal_joint` of the task gives it 0."""
    absent = [not sample.spans for sample in samples]
    refused = [prediction.reading.spans == () for prediction in predictions]
    pairs = list(zip(absent, refused, strict=True))
    ious = [
        float(refuses) if is_absent else best_iou(prediction.answer, sample.spans)
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
