"""TimeLens (arXiv 2512.14698): the IoU of a sentence without reasoning, and nothing else."""

import re
from dataclasses import dataclass

from taro.prompts import spans_in
from taro.rl.rewards.completion import Completion, Form, Method
from taro.spans import temporal_iou

_PAIR = re.compile(r"(?<!\d)(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class TimeLens(Method):
    """IoU of the first span of the answer (`The event happens in 8.5 - 12.4 seconds.`, also in an answer block) with the first
    truth. What stands in a think block is no answer.

    released: each `to` in lower case becomes a dash, in words, too, and the first `number - number` of the whole text counts,
    one in the reasoning as well.
    """

    form: Form = "published"

    def __call__(self, completion: Completion) -> float:
        text = completion.text
        if self.form == "released":
            found = _PAIR.search(text.replace("to", "-"))
            spans = [(float(found[1]), float(found[2]))] if found else []
        else:
            spans = spans_in(completion.said)
        return temporal_iou(spans[0], completion.truth[0]) if spans and completion.truth else 0.0
