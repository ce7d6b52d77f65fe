"""TempR1 (arXiv 2512.03963): three ways in which predicted and true spans correspond.

Spans are (start, end) in seconds; Np predicted, Ng true ones. The paper has no code and says nothing of empty lists: no truth
and no prediction agree and get the most, a prediction without a truth, or a truth without a prediction, gets 0, but for the
count of none, which is off by Ng as any other count is. A reversed or empty span counts as one and agrees with none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from taro.matching import match_freely, match_in_order
from taro.rl.rewards.completion import Completion, Method
from taro.rl.rewards.taro import format_reward
from taro.spans import Span, temporal_iou, union_iou
from taro.tasks.measures import mean_paired_iou

MATCHINGS: dict[str, Callable] = {"monotone": match_in_order, "hungarian": match_freely}


def one_to_one(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """Mean IoU of the pairs in their order; what the longer list has more is a pair with IoU 0. In [0, 1]."""
    return mean_paired_iou(predicted, truth)


def many_to_one(predicted: Sequence[Span], truth: Sequence[Span]) -> float:
    """IoU of the unions. In [0, 1]."""
    return union_iou(predicted, truth)


def many_to_many(
    predicted: Sequence[Span],
    truth: Sequence[Span],
    *,
    sigma: float = 1.0,
    matching: Literal["monotone", "hungarian"] = "monotone",
) -> float:
    """`count_reward` + `matching_reward`. In [0, 2]."""
    return count_reward(len(predicted), len(truth), sigma=sigma) + matching_reward(predicted, truth, matching=matching)


def count_reward(predicted: int, truth: int, *, sigma: float = 1.0) -> float:
    """exp(-|Np - Ng| / (min(Ng, 3) sigma)). Raises ValueError unless `sigma > 0`."""
    if not sigma > 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    if not truth:
        return float(not predicted)
    return math.exp(-abs(predicted - truth) / (min(truth, 3) * sigma))


def matching_reward(
    predicted: Sequence[Span], truth: Sequence[Span], *, matching: Literal["monotone", "hungarian"] = "monotone"
) -> float:
    """F1 = 2 s / (Np + Ng), with s the IoUs of a matching of both sides in order of time, summed.

    `monotone`, the paper's, is the best one without crossings: where true spans overlap, a better one may have some.
    `hungarian` is the best one. Raises ValueError for another.
    """
    if matching not in MATCHINGS:
        raise ValueError(f"matching must be {' or '.join(map(repr, MATCHINGS))}, got {matching!r}")
    if not predicted or not truth:
        return float(not predicted and not truth)
    ious = [[temporal_iou(span, true) for true in sorted(truth)] for span in sorted(predicted)]  # (Np, Ng)
    return 2 * sum(ious[i][j] for i, j in MATCHINGS[matching](ious)) / (len(predicted) + len(truth))


@dataclass(frozen=True)
class TempR1(Method):
    """Format + the task's correspondence; + 1 for the right choice in grounded question answering.

    Args:
        sigma: of the count of actions.
        matching: of actions.
    """

    sigma: Annotated[float, Field(gt=0)] = 1.0
    matching: Literal["monotone", "hungarian"] = "monotone"

    def __call__(self, completion: Completion) -> dict[str, float]:
        parts = {"format": format_reward(completion.text)}
        predicted, truth, kind = completion.spans, completion.truth, completion.kind.correspondence
        if completion.kind.single and completion.span is not None and truth:  # several truths are alternatives
            predicted, truth = (completion.span,), (completion.nearest,)
        if kind == "many_to_many":
            parts["count"] = 0.0 if predicted is None else count_reward(len(predicted), len(truth), sigma=self.sigma)
            parts["matching"] = 0.0 if predicted is None else matching_reward(predicted, truth, matching=self.matching)
        else:
            compare = one_to_one if kind == "one_to_one" else many_to_one
            parts["iou"] = 0.0 if predicted is None else compare(predicted, truth)
        if completion.kind.has_choices:
            parts["answer"] = completion.chose_rightly()
        return parts
