"""QVHighlights: `taro.evaluation.qvhighlights`, of samples and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.evaluation.qvhighlights import make_submission, score_submission


def score(samples: Sequence[Sample], predictions: Sequence[Prediction], strict: bool) -> dict[str, float]:
    """Its `brief` scores."""
    return score_submission(submission(samples, predictions), _truth(samples), strict_r1=strict)


def submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """What would be handed in."""
    return make_submission([prediction.to_row() for prediction in predictions], _truth(samples))


def _truth(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The benchmark's own rows, whose ids are whole numbers."""
    rows = []
    for sample in samples:
        row = {"qid": int(sample.id) if sample.id.isdecimal() else sample.id, "query": sample.query}
        row |= {name: sample.extra[name] for name in ("vid",) if name in sample.extra}
        rows.append(row | {"relevant_windows": sample.spans})
    return rows
