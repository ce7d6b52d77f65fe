"""OMTG Bench (arXiv 2606.06294): count accuracy and the effective temporal F1, as vlmeval/dataset/omtg_bench.py of
github.com/open-compass/VLMEvalKit computes them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.evaluation.scorers.means import mean_scores
from taro.matching import match_freely
from taro.spans import Span, merge_spans, temporal_iou, union_iou
from taro.tasks.measures import LEVELS


def score(samples: Sequence[Sample], predictions: Sequence[Prediction], strict: bool) -> dict[str, float]:
    """Means over the samples; EtF1 is the first."""
    return mean_scores(score_answer, samples, predictions)


def score_answer(answer: Sequence[Span], truth: Sequence[Span]) -> dict[str, float]:
    """EtF1 is the mean F1 of the levels where there are as many spans as true ones, and 0 elsewhere.

    There is one matching, that with the largest sum of IoUs, and of its pairs those count that reach a level; `F1@level` of
    the tasks takes the largest matching at each level.
    """
    answer, truth = _in_order(answer), _in_order(truth)
    count, both = float(len(answer) == len(truth)), len(answer) + len(truth)
    scores = {"C-Acc": count, "tIoU": union_iou(answer, truth)}
    ious = [[temporal_iou(span, true) for true in _as_merged(truth)] for span in _as_merged(answer)]  # (Np, Ng)
    matched = [ious[i][j] for i, j in match_freely(ious)]
    for level in LEVELS:
        hits = sum(iou >= level for iou in matched)
        scores |= {
            f"tF1@{level}": 2 * hits / both if both else 1.0,
            f"tP@{level}": hits / len(answer) if answer else float(not truth),
            f"tR@{level}": hits / len(truth) if truth else float(not answer),
        }
    return {"EtF1": count * fmean(scores[f"tF1@{level}"] for level in LEVELS), **scores}


def _in_order(spans: Sequence[Span]) -> list[Span]:
    """Those that have a length, in order of time."""
    return sorted((span for span in spans if span[0] < span[1]), key=lambda span: span[0])


def _as_merged(spans: list[Span]) -> list[Span]:
    """The spans as they are matched: the union is made in place there, which draws out the first one to the end of those that
    overlap or touch it, while these stay."""
    return [*merge_spans(spans)[:1], *spans[1:]]
