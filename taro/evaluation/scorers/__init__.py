"""Scores as the authors of a benchmark compute them, by the name that its entry in configs/datasets.yaml has as `scorer`.

A scorer takes the samples, their predictions in the same order, and whether R1 counts IoU > level and not >=; it gives scores
by name, in percent. Every sample counts: where there is no answer that can be read, none was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.evaluation.scorers import momentseeker, omtg, qvhighlights, ra_rft, vue_tr

Scorer = Callable[[Sequence[Sample], Sequence[Prediction], bool], dict[str, float]]

SCORERS: Mapping[str, Scorer] = {
    "qvhighlights": qvhighlights.score,
    "vue_tr": vue_tr.score,
    "omtg": omtg.score,
    "momentseeker": momentseeker.score,
    "ra_rft": ra_rft.score,
}
SUBMISSIONS: Mapping[str, Callable[[Sequence[Sample], Sequence[Prediction]], list[dict[str, Any]]]] = {
    "qvhighlights": qvhighlights.submission,
    "vue_tr": vue_tr.submission,
}
"""The rows that the authors' own scorer reads, where it reads JSON lines."""
