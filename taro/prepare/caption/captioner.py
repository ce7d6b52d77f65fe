"""What lies between captioning and what answers, a local engine or an endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from taro.prepare.caption.windows import WindowTask
from taro.video.load import Video


@dataclass(frozen=True)
class Answer:
    """What was answered about a window, or why nothing was."""

    text: str = ""
    cut: bool = False  # at max_tokens: it would have gone on
    failure: str | None = None


class Captioner(Protocol):
    """Asks a model about windows."""

    def answer(self, windows: Iterable[tuple[WindowTask, Video]]) -> Iterator[tuple[WindowTask, Answer]]:
        """An answer for each window, as they come; windows are taken when there is room for them."""
        ...
