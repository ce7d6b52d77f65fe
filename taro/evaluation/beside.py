"""What belongs beside a result of grounding: the same answers by every rule in use, and answers that never saw the video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taro.data.samples import Sample
from taro.evaluation.blind import BlindRow, blind_rows
from taro.evaluation.predictions import Prediction
from taro.evaluation.protocols import PROTOCOLS, Cut, ProtocolScores, Text, score_protocol
from taro.tasks.grounding import Grounding


@dataclass(frozen=True)
class Beside:
    """Both empty where no sample asks for one span."""

    protocols: tuple[ProtocolScores, ...] = ()
    blind: tuple[BlindRow, ...] = ()


def put_beside(samples: Sequence[Sample], predictions: Sequence[Prediction], cut: Cut | None = None) -> Beside:
    """Of those samples that ask for one span. `predictions`: theirs, in the same order; `cut`: as of `score_protocol`."""
    pairs = [pair for pair in zip(samples, predictions, strict=True) if pair[0].task == Grounding.name]
    if not pairs:
        return Beside()
    texts = [Text(sample.id, prediction.completion, sample.spans) for sample, prediction in pairs]
    blind = blind_rows([sample for sample, _ in pairs])
    return Beside(tuple(score_protocol(protocol, texts, cut) for protocol in PROTOCOLS), tuple(blind))
