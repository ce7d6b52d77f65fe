"""Does reasoning pay? The same questions answered at once, at equal tokens.

    python eval.py --dataset Synthetic --model DIR --output outputs/eval/whole --answer_only

A model is kept from reasoning by what its completion begins with: an empty reasoning and an open answer (as in arXiv
2504.09858), below the same prompt. An answer then costs a few tokens, where one with reasoning costs hundreds. So each question
is also answered several times, at temperature 1, as often as all tokens that the reasoned answers took are enough for, and the
median of the starts and that of the ends is the answer. All have the same `max_tokens`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from statistics import median

from taro.data.samples import Sample
from taro.evaluation.predictions import Prediction
from taro.seeds import stable_seed

START = "<think>\n</think>\n<answer>"
ONCE, OFTEN = "answer_only", "answer_only_equal_tokens"  # folders within that of the reasoned answers
TEMPERATURE = 1.0


def count_affordable(reasoned: Collection[Prediction], at_once: Collection[Prediction]) -> int:
    """How many answers to each question the tokens of the reasoned ones are enough for; at least 1.

    Args:
        reasoned: all answers with reasoning.
        at_once: those to the same questions without it.
    """
    have, need = (sum(one.tokens for one in answers) for answers in (reasoned, at_once))
    return max(1, have // need) if need else 1


def draw_seeds(sample: Sample, count: int) -> tuple[int, ...]:
    """Of so many answers to a question."""
    return tuple(stable_seed("answer only", sample.id, number) for number in range(count))


def take_median(sample: Sample, drawn: Sequence[Prediction]) -> Prediction:
    """One answer of several, written as if it were said: the median start and the median end of those that can be read. Where
    none can, it is the first."""
    cost = {"seconds": sum(one.seconds for one in drawn), "tokens": sum(one.tokens for one in drawn)}
    spans = [sorted(one.answer) for one in drawn if one.answer is not None]
    if not spans:
        return replace(drawn[0], **cost)
    start, end = (median(times) for times in zip(*spans, strict=True))
    return Prediction.answered(sample, f"{START}{start:.2f}s to {end:.2f}s</answer>", True, **cost)
