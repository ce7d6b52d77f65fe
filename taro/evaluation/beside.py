"""What belongs beside a result of grounding: the same answers by every rule in use, and answers that never saw the video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taro.data.samples import Sample
from taro.evaluation.blind import BlindRow, blind_rows
from taro.evaluation.predictions import Prediction
from taro.evaluation.protocols import PROTOCOLS, Cut, ProtocolScores, Text, score_protocol
from taro.evaluation.training_file import Fit
from taro.tasks.grounding import Grounding


@dataclass(frozen=True)
class Beside:
    """Both empty where no sample asks for one span. `fit`: the file of the training samples that `blind` was fitted on, too."""

    protocols: tuple[ProtocolScores, ...] = ()
    blind: tuple[BlindRow, ...] = ()
    fit: str | None = None


def put_beside(
    samples: Sequence[Sample], predictions: Sequence[Prediction], cut: Cut | None = None, fit: Fit | None = None
) -> Beside:
    """Of those samples that ask for one span.

    Args:
        samples: all that were asked for.
        predictions: theirs, in the same order.
        cut: as of `score_protocol`.
        fit: what blind answers are fitted on, too.
    """
    pairs = [pair for pair in zip(samples, predictions, strict=True) if pair[0].task == Grounding.name]
    if not pairs:
        return Beside()
    texts = [Text(sample.id, prediction.completion, sample.spans) for sample, prediction in pairs]
    blind = blind_rows([sample for sample, _ in pairs], fit and fit.samples)
    protocols = tuple(score_protocol(protocol, texts, cut) for protocol in PROTOCOLS)
    return Beside(protocols, tuple(blind), fit and fit.file)
