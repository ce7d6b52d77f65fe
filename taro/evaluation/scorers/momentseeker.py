"""MomentSeeker (arXiv 2502.12558): R@1 and mAP@5 of models that write intervals, as vlmeval's momentseeker of
github.com/open-compass/VLMEvalKit computes them. The authors' own code (github.com/yhy-2000/MomentSeeker) ranks given clips.

The first span of an answer counts as its best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.evaluation.scorers.means import mean_scores
from taro.spans import Span, best_iou, temporal_iou, union_iou

LEVEL = 0.3  # an IoU above it is a hit
MOST = 5  # spans of an answer


def score(samples: Sequence[Sample], predictions: Sequence[Prediction], strict: bool) -> dict[str, float]:
    """Means over the samples."""
    return mean_scores(score_answer, samples, predictions)


def score_answer(answer: Sequence[Span], truth: Sequence[Span]) -> dict[str, float]:
    """One answer's R@1, average precision and IoU."""
    answer = answer[:MOST]
    first = best_iou(answer[0], truth) if answer else 0.0
    return {
        "R@1": float(first > LEVEL),
        "mAP@5": average_precision(answer, truth),
        **{f"R@1 (IoU > {level})": float(first > level) for level in (0.5, 0.7)},
        "mIoU": union_iou(answer, truth),
    }


def average_precision(answer: Sequence[Span], truth: Sequence[Span]) -> float:
    """Mean precision at the hits, each of which takes the nearest true span that is left; true spans that no answer hits cost
    nothing."""
    left, precisions = list(truth), []
    for rank, span in enumerate(answer, start=1):
        nearest = max(left, key=lambda true: temporal_iou(span, true), default=None)
        if nearest is not None and temporal_iou(span, nearest) > LEVEL:
            left.remove(nearest)
            precisions.append((len(precisions) + 1) / rank)
    return fmean(precisions) if precisions else 0.0
