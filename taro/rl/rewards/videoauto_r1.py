"""VideoAuto-R1 (arXiv 2601.05175): answer, think, answer again."""

import re
from dataclasses import dataclass
from typing import Literal

from taro.prompts import spans_in
from taro.rl.rewards.completion import Completion, Method
from taro.rl.rewards.taro import best_truth
from taro.spans import temporal_iou

_BOX = r"\\boxed\{([^{}]*)\}"
_FORMAT = re.compile(rf"\s*{_BOX}\s*<think>.*?</think>\s*{_BOX}\s*", re.DOTALL)
_BOXES = re.compile(_BOX)
_ABSTAINS = re.compile(r"let's analyze", re.IGNORECASE)
GOOD = 0.7  # a second answer above it earns the bonus of abstention


def twice(first: float, second: float, abstains: bool) -> dict[str, float]:
    """0.9 first + 1.1 second, + 0.3 where the first answer abstains and the second is above 0.7. Accuracies are in [0, 1]."""
    return {"first": 0.9 * first, "second": 1.1 * second, "abstention": 0.3 if abstains and second > GOOD else 0.0}


@dataclass(frozen=True)
class VideoAutoR1(Method):
    r"""Two answers, `\boxed{3.0 to 5.5}<think>...</think>\boxed{3.0 to 5.0}`, + 1 for the format. The first may abstain: `Let's
    analyze the problem step by step.` One box alone is the first answer.

    Args:
        accuracy: the IoU of grounding, or the right `choice`.
    """

    accuracy: Literal["iou", "choice"] = "iou"

    def __call__(self, completion: Completion) -> dict[str, float]:
        boxes = _BOXES.findall(completion.text)
        whole = len(boxes) == 2 and _FORMAT.fullmatch(completion.text) is not None
        first, second = (boxes[0], boxes[-1]) if len(boxes) > 1 else (*boxes, "", "")[:2]
        abstains = _ABSTAINS.search(first) is not None
        scores = twice(self._score(first, completion), self._score(second, completion), abstains)
        return {**scores, "format": float(whole)}

    def _score(self, answer: str, completion: Completion) -> float:
        if self.accuracy == "choice":
            return completion.chose_rightly(answer)
        spans = spans_in(answer)
        return temporal_iou(spans[-1], best_truth(spans[-1], completion.truth)) if spans and completion.truth else 0.0
