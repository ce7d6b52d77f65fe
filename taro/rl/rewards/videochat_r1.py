"""VideoChat-R1 (arXiv 2504.06958): IoU of a span, or of several in `<glue>` with a choice in `<answer>`."""

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


@dataclass(frozen=True)
class VideoChatR1(Method):
    """Grounding: format + IoU. `grounded_qa`: format + IoU of the unions of `<glue>[(s, e), ...]</glue>` + 1 for the choice.

    A reversed span can't be read. released: two empty sides have an IoU of 1 in question answering; a unit in the answer of
    grounding can't be read.
    """

    form: Form = "published"

    def __call__(self, completion: Completion) -> dict[str, float]:
        if completion.kind.has_choices:
            return self._question(completion)
        if self.form == "published":
            return {"format": has_format(completion), "iou": completion.iou}
        truth = completion.sample.spans
        iou = hull_iou(bare_span(completion.text), truth[0]) if truth else 0.0
        return {"format": loose_format(completion.text), "iou": iou}

    def _question(self, completion: Completion) -> dict[str, float]:
        spans = read_glue(completion.text)
        whole = _GLUE_FORMAT.fullmatch(completion.text.strip()) is not None
        iou = 0.0 if spans is None else union_iou(spans, completion.truth)
        if self.form == "released" and spans is not None and not any(end > start for start, end in [*spans, *completion.truth]):
            iou = 1.0
        return {"format": float(whole and spans is not None), "iou": iou, "answer": completion.chose_rightly()}


def read_glue(text: str) -> list[Span] | None:
    """The pairs of the first `<glue>` block, a list of tuples; None where it is none, or one of them is reversed."""
    found = _GLUE.search(text)
    if found is None or _GLUE_LIST.fullmatch(found[1].strip()) is None:
        return None
    spans = [(float(start), float(end)) for start, end in re.findall(rf"\(({_NUMBER}),\s*({_NUMBER})\)", found[1])]
    return None if any(start > end for start, end in spans) else spans
