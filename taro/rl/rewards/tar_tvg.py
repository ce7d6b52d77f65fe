"""TAR-TVG (arXiv 2508.07683): timestamps in the reasoning that come closer and closer to the truth."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from taro.prompts import spans_in, think_span
from taro.rl.rewards.completion import Completion, Method
from taro.rl.rewards.parts import has_format
from taro.spans import Span

_ANCHOR = re.compile(r"<timestamp>(.*?)</timestamp>", re.DOTALL | re.IGNORECASE)


def soft_iou(span: Span | None, truth: Span) -> float:
    """(min(e, e*) - max(s, s*)) / (max(e, e*) - min(s, s*)), in (-1, 1]: below 0 the farther apart the spans are.

    -1 for a span that is missing, reversed or empty, and for such a truth.
    """
    if span is None or not (span[0] < span[1] and truth[0] < truth[1]):
        return -1.0
    return (min(span[1], truth[1]) - max(span[0], truth[0])) / (max(span[1], truth[1]) - min(span[0], truth[0]))


def anchors(text: str) -> list[Span]:
    """The spans of the `<timestamp>` blocks in the reasoning, in order; one that can't be read is left out."""
    inside = text[slice(*think_span(text))]
    return [span for block in _ANCHOR.findall(inside) for span in spans_in(block)[:1]]


def anchor_reward(spans: Sequence[Span], truth: Span) -> float:
    """Sum over anchors k = 1..n of 2 k / (n (n + 1)) where the soft IoU is above that of the anchor before, in [0, 1].

    The first is above -1 wherever it is a span. Without anchors 0. The paper's weights are not public: these grow with k, as it
    says.
    """
    scores = [-1.0, *(soft_iou(span, truth) for span in spans)]
    total = len(spans) * (len(spans) + 1) / 2
    return sum(k for k in range(1, len(scores)) if scores[k] > scores[k - 1]) / total if spans else 0.0


@dataclass(frozen=True)
class TarTvg(Method):
    """Format + soft IoU + anchors.

    Args:
        count: another number of anchors than this gets no reward for them; None: any number.
    """

    count: Annotated[int, Field(ge=0)] | None = 2

    def __call__(self, completion: Completion) -> dict[str, float]:
        truth, found = completion.nearest, anchors(completion.text)
        counted = truth is not None and self.count in (None, len(found))
        return {
            "format": has_format(completion),
            "soft_iou": -1.0 if truth is None else soft_iou(completion.span, truth),
            "anchors": anchor_reward(found, truth) if counted else 0.0,
        }
