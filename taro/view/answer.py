"""A model's answer to one question about one video, with all that can be shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from taro.models.prompt import Prompt, PromptBuilder
from taro.prompts import parse_spans
from taro.rollout import RolloutGroup
from taro.spans import Span
from taro.view.frames import make_strip
from taro.view.html import timeline_html
from taro.view.timeline import Timeline, TokenGap, Track, seconds_text


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        id: in the vocabulary.
        text: of the token; of a part of a character it is the replacement character.
        start, end: its characters in the answer's text.
        log_prob: under the engine that drew it, nats.
    """

    id: int
    text: str
    start: int
    end: int
    log_prob: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model said. In a notebook it shows itself as the timeline.

    Attributes:
        video: path of the file.
        query: that was asked.
        text: the completion, reasoning included.
        spans: seconds, all that the answer names, as they were written; () where none can be read.
        tokens: of the completion, the one that ends it included.
        finished: False: it was cut at `max_tokens`.
        seconds: from the prompt to the last token.
        prompt: with the frames that the model saw.
        gaps: how much less likely each token is with shuffled frames, where `Grounder.gap` has measured it.
        temporal_gap: their mean over the reasoning, nats per token; None where it wasn't measured, or there is no reasoning.
    """

    video: str
    query: str
    text: str
    spans: tuple[Span, ...]
    tokens: tuple[Token, ...]
    finished: bool
    seconds: float
    prompt: Prompt = field(repr=False)
    gaps: tuple[TokenGap, ...] = ()
    temporal_gap: float | None = None

    @classmethod
    def of(cls, video: str, query: str, prompt: Prompt, group: RolloutGroup, builder: PromptBuilder, seconds: float) -> Answer:
        """From the only completion of a group."""
        (ids,), (log_probs,), (finished,) = group.completions, group.log_probs, group.finished
        text, places = builder.token_spans(ids)
        rows = zip(ids.tolist(), places, log_probs.tolist(), strict=True)
        tokens = tuple(Token(id, text[start:end], start, end, log_prob) for id, (start, end), log_prob in rows)
        return cls(video, query, text, tuple(parse_spans(text) or ()), tokens, finished, seconds, prompt)

    @property
    def duration(self) -> float:
        """Seconds of the video."""
        return self.prompt.video.duration

    @property
    def frame_times(self) -> tuple[float, ...]:
        """(F) seconds, of the frames that the model saw."""
        return tuple(self.prompt.video.timestamps.tolist())

    def timeline(self, truths: Sequence[Span] = ()) -> Timeline:
        """A bar for each span, and the text below; with the true spans where they are known."""
        first, *others = self.spans or (None,)
        note = "" if first is None else seconds_text(first)
        tracks = [Track("answer", first, 1.0, note, self.text, self.gaps)]
        tracks += [Track(f"answer {k}", span, 1.0, seconds_text(span)) for k, span in enumerate(others, start=2)]
        return Timeline(self.duration, tuple(truths), tuple(tracks), make_strip(self.prompt.video))

    def _repr_html_(self) -> str:
        return timeline_html(self.timeline())
