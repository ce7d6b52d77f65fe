"""T-GRPO of Video-R1 (arXiv 2503.21776): a bonus where a group answers better on the video than on its shuffled frames.

G completions on the video, and some on the same frames in a random order. A bonus to all right ones of a group in which all are
right vanishes in the group's normalisation: it acts on mixed groups only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from taro.rl.rewards.completion import Completion, Form, Method
from taro.rl.rewards.parts import has_format

RIGHT = 0.1  # an accuracy above it earns a bonus


def ordered_wins(accuracy: Sequence[float], shuffled: Sequence[float], *, form: Form = "published") -> bool:
    """Whether the mean accuracy p of a group is at least that on shuffled frames, p~, and not 0.

    released: at least 0.8 p~, which is true of two means of 0, too.
    """
    p, other = fmean(accuracy), fmean(shuffled)
    return p >= 0.8 * other if form == "released" else p >= other and p > 0


def temporal_bonus(
    accuracy: Sequence[float], shuffled: Sequence[float], *, bonus: float = 0.3, form: Form = "published"
) -> list[float]:
    """(G) `bonus` for each accuracy above 0.1 where the ordered frames win."""
    wins = ordered_wins(accuracy, shuffled, form=form)
    return [bonus if wins and value > RIGHT else 0.0 for value in accuracy]


def length_bonus(
    accuracy: Sequence[float], lengths: Sequence[int], *, bonus: float = 0.2, shortest: int = 320, longest: int = 512
) -> list[float]:
    """(G) `bonus` for each right completion of so many tokens, where two or more are right."""
    right = [value > RIGHT for value in accuracy]
    return [
        bonus if good and sum(right) >= 2 and shortest <= length <= longest else 0.0
        for good, length in zip(right, lengths, strict=True)
    ]


@dataclass(frozen=True)
class TGRPO(Method):
    """Accuracy + format + temporal bonus + length bonus, for the completions that are not `shuffled`; those get 0.

    Raises ValueError for a group of several without shuffled ones.

    Args:
        accuracy: the IoU of grounding, or the right `choice`.
        bonus: of the order of the frames.
        length: bonus of the length; 0 leaves it out.
    """

    accuracy: Literal["iou", "choice"] = "iou"
    bonus: float = 0.3
    length: float = 0.2
    form: Form = "published"

    def __call__(self, group: Sequence[Completion]) -> dict[str, list[float]]:
        ordered = [completion for completion in group if not completion.shuffled]
        other = [self._accuracy(completion) for completion in group if completion.shuffled]
        if not other and len(ordered) > 1:
            raise ValueError("T-GRPO compares with completions on shuffled frames, and the group has none")
        accuracy = [self._accuracy(completion) for completion in ordered]
        lengths = [len(completion.token_ids) for completion in ordered]
        parts = {
            "accuracy": accuracy,
            "format": [has_format(completion) for completion in ordered],
            "temporal": temporal_bonus(accuracy, other, bonus=self.bonus, form=self.form) if other else [0.0] * len(ordered),
            "length": length_bonus(accuracy, lengths, bonus=self.length),
        }
        return {name: _spread(values, group) for name, values in parts.items()}

    def _accuracy(self, completion: Completion) -> float:
        return completion.iou if self.accuracy == "iou" else completion.chose_rightly()


def _spread(values: Sequence[float], group: Sequence[Completion]) -> list[float]:
    """Of the ordered completions, to all; 0 for the others."""
    left = iter(values)
    return [0.0 if completion.shuffled else next(left) for completion in group]
