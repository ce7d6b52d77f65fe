"""VideoChat-R1 (arXiv 2504.06958): IoU of a span, or of several in `<glue>` with a choice in `<answer>`."""

import ast
import re
from dataclasses import dataclass

from taro.rl.rewards.completion import Completion, Form, Method
from taro.rl.rewards.parts import has_format
from taro.rl.rewards.released import bare_span, hull_iou, loose_format
from taro.spans import Span, union_iou

_NUMBER = r"\d+(?:\.\d+)?"
_PAIR = rf"\({_NUMBER},\s*{_NUMBER}\)"
_GLUE_LIST = re.compile(rf"\[(?:{_PAIR}(?:,\s*{_PAIR})*,?)?\]")
_GLUE = re.compile(r"<glue>(.*?)</glue>", re.DOTALL)
_GLUE_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>\s*<glue>.*?</glue>", re.DOTALL)
_FIRST_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_RELEASED_LETTER = re.compile("[A-G]")
_RELEASED_OPENING = "Best answer:Best option:"  # two openings without a comma between them: no other one has such a letter


@dataclass(frozen=True)
class VideoChatR1(Method):
    """Grounding: format + IoU. `grounded_qa`: format + IoU of the unions of `<glue>[(s, e), ...]</glue>` + 1 for the choice.

    A reversed span can't be read. released: a unit in the answer of grounding can't be read. In question answering two empty
    sides have an IoU of 1; white space around the list of spans makes it unreadable; and the choice is the first capital letter
    from A to G in the first answer block, inside words, too.
    """

    form: Form = "published"

    def __call__(self, completion: Completion) -> dict[str, float]:
        if completion.kind.has_choices:
            return self._question(completion) if self.form == "published" else _released_question(completion)
        if self.form == "published":
            return {"format": has_format(completion), "iou": completion.iou}
        truth = completion.sample.spans
        iou = hull_iou(bare_span(completion.text), truth[0]) if truth else 0.0
        return {"format": loose_format(completion.text), "iou": iou}

    def _question(self, completion: Completion) -> dict[str, float]:
        spans = read_glue(completion.text)
        iou = 0.0 if spans is None else union_iou(spans, completion.truth)
        return {"format": _glue_format(completion, spans), "iou": iou, "answer": completion.chose_rightly()}


def _released_question(completion: Completion) -> dict[str, float]:
    spans, truth = read_glue_as_released(completion.text), completion.sample.spans
    iou = 0.0 if spans is None else union_iou(spans, truth)
    if spans is not None and not any(end > start for start, end in [*spans, *truth]):
        iou = 1.0
    right, found = released_letter(completion.right_choice), _FIRST_ANSWER.search(completion.text)
    chosen = found is not None and released_letter(found[1]) == right
    return {"format": _glue_format(completion, spans), "iou": iou, "answer": float(chosen)}


def _glue_format(completion: Completion, spans: list[Span] | None) -> float:
    return float(spans is not None and _GLUE_FORMAT.fullmatch(completion.text.strip()) is not None)


def read_glue(text: str) -> list[Span] | None:
    """The pairs of the first `<glue>` block, a list of tuples; None where it is none, or one of them is reversed."""
    found = _GLUE.search(text)
    return None if found is None else _read_list(found[1].strip())


def read_glue_as_released(text: str) -> list[Span] | None:
    """The same without white space around the list, but for a line's end after it, and of numbers as Python has them: `02` is
    none."""
    found = _GLUE.search(text)
    if found is None or (spans := _read_list(found[1].removesuffix("\n"))) is None:
        return None
    try:
        ast.literal_eval(found[1])
    except (ValueError, SyntaxError):
        return None
    return spans


def _read_list(text: str) -> list[Span] | None:
    if _GLUE_LIST.fullmatch(text) is None:
        return None
    spans = [(float(start), float(end)) for start, end in re.findall(rf"\(({_NUMBER}),\s*({_NUMBER})\)", text)]
    return None if any(start > end for start, end in spans) else spans


def released_letter(text: str) -> str:
    """The first of A to G, in a word or alone; `""` where there is none."""
    found = _RELEASED_LETTER.search(text.replace(_RELEASED_OPENING, ""))
    return found[0] if found else ""
