"""RA-RFT (arXiv 2511.23151): an event that doesn't occur is to be refused, explained and corrected.

A sample without a truth is one to refuse. Its row may have `explanation`, what a right answer says, `contrast`, what a wrong
one says, and `answerable_query`, the query that the video answers: texts.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from taro.errors import TaroError
from taro.messages import describe_fault
from taro.rl.rewards.completion import Completion, Form, Method
from taro.rl.rewards.parts import has_format, timestamp_iou
from taro.rl.rewards.time_r1 import unclamped_iou

_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>\s*<correction>.*?</correction>", re.DOTALL)
_CORRECTION = re.compile(r"<correction>(.*?)</correction>", re.DOTALL)
_PAIR = re.compile(r"(?<!\d)(\d+(?:\.\d*)?)\s+to\s+(\d+(?:\.\d*)?)", re.IGNORECASE)
_WORD = re.compile(r"\w+")
NOTHING_TO_CORRECT = "NIL"
COLUMNS = ("explanation", "contrast", "answerable_query")


def word_overlap(first: str, second: str) -> float:
    """F1 of the words of two texts, in [0, 1]. A sentence encoder's similarity takes its place where there is one."""
    left, right = (Counter(_WORD.findall(text.lower())) for text in (first, second))
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0


@dataclass(frozen=True)
class RaRft(Method):
    """Format (with a `<correction>` block where the sample has an `answerable_query`) + refusal or Time-R1's IoU, + explanation
    and correction where the sample's row has what they need.

    Refusal: 1 for an answer in words that names no time, so that it can be the explanation as well. Explanation: similarity to
    `explanation` minus that to `contrast`. Correction: similarity to `answerable_query`, or `NIL` for a query that can be
    answered.

    released: no `number to number` in the answer is a refusal, so a broken answer gets 1, and so does `12.0s to 15.0s`. Every
    sample is to have a correction, which says that there is nothing to correct wherever it has the letters `nil` (`a vanilla
    cone`). Similarity is that of a sentence encoder, which is not a part of TaRO.

    Args:
        similarity: import path of a function of two texts, in [0, 1]; None: `word_overlap`.
    """

    similarity: str | None = None
    form: Form = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            found = self._similarity()
        except TaroError as error:
            raise ValueError(f"similarity = {self.similarity!r}: {error}") from error
        if not callable(found):
            raise ValueError(f"similarity = {self.similarity!r}: must be the import path of a function of two texts")

    def __call__(self, completion: Completion) -> dict[str, float]:
        columns, refusable = completion.sample.extra, not completion.truth
        if wrong := [name for name in COLUMNS if not isinstance(columns.get(name, ""), str)]:
            raise ValueError(f"the sample's {describe_fault(wrong[0], columns[wrong[0]], 'text, or no such key')}")
        corrects = self.form == "released" or "answerable_query" in columns
        whole = float(bool(_FORMAT.fullmatch(completion.text.strip()))) if corrects else has_format(completion)
        parts = {"format": whole, "grounding": self._refusal(completion) if refusable else self._iou(completion)}
        if "explanation" in columns and "contrast" in columns:
            answer, similarity = completion.answer, self._similarity()
            right, wrong = columns["explanation"], columns["contrast"]
            parts["explanation"] = 0.0 if answer is None else similarity(answer, right) - similarity(answer, wrong)
        if corrects:
            parts["correction"] = self._correction(completion, refusable)
        return parts

    def _correction(self, completion: Completion, refusable: bool) -> float:
        released, query = self.form == "released", completion.sample.extra.get("answerable_query")
        blocks = _CORRECTION.findall(completion.text)
        found = blocks[-1].strip() if blocks else ""
        nil = NOTHING_TO_CORRECT in found.upper() if released else found.strip(".").upper() == NOTHING_TO_CORRECT
        if not refusable or nil:
            return float(nil and not refusable)
        if released:
            return self._similarity()(found, query) if blocks and query else 0.0
        return self._similarity()(found, query) if found else 0.0

    def _refusal(self, completion: Completion) -> float:
        if self.form == "published":
            return float(completion.spans == () or _says_no_time(completion.answer or ""))
        return float(completion.answer is not None and _PAIR.search(completion.answer) is None)

    def _iou(self, completion: Completion) -> float:
        if self.form == "published":
            return timestamp_iou(completion)
        found = _PAIR.search(completion.answer or "")
        span = (float(found[1]), float(found[2])) if found else None
        return unclamped_iou(span, completion.sample.spans[0], completion.duration)

    def _similarity(self) -> Callable[[str, str], float]:
        from taro.rl.rewards.choose import import_path

        return word_overlap if self.similarity is None else import_path(self.similarity)


def _says_no_time(answer: str) -> bool:
    """Whether a text has letters and no digit. A number without a unit, or as a clock has it (`1:05`), may be a time."""
    return any(map(str.isalpha, answer)) and not any(map(str.isdigit, answer))
