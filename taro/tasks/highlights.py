"""Highlight detection: which parts of the video show this best?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taro.spans import overlap_length, total_length
from taro.tasks.task import Answer, Task


@dataclass(frozen=True)
class Highlights(Task):
    """Many to one: the union of the answer's spans against the union of the true ones, however either is cut.

    There are no constructed paths: captions say what happens, and not how much of a highlight it is.
    """

    name: ClassVar[str] = "highlights"
    instruction: ClassVar[str] = (
        "Several parts of the video may show it. Write the time ranges of the highlights, those that show it best, in order of "
        "time, as <answer>8.50s to 12.40s, 20.00s to 23.50s</answer>."
    )
    opening: ClassVar[str | None] = None

    def scores(self, answer: Answer, truth: Answer) -> dict[str, float]:
        """Of the seconds."""
        found, true = total_length(answer.spans or ()), total_length(truth.spans)
        both = overlap_length(answer.spans or (), truth.spans)
        return {"precision": both / found if found else 0.0, "recall": both / true if true else 0.0}
