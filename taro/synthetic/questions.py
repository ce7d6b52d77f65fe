"""Questions of every task about a scene of the synthetic world. Each is one row; all have the scene's captions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from taro.data.samples import Caption, Sample
from taro.spans import Span
from taro.tasks import DEFAULT
from taro.tasks.dense import number_queries

if TYPE_CHECKING:
    from taro.synthetic.world import Event, Scene

KINDS = {
    "moving": ("moves left", "moves right", "moves up", "moves down"),
    "changing size": ("grows", "shrinks"),
    "blinking": ("blinks",),
}
CHOICES = 4
Question = tuple[str, tuple[Span, ...], dict[str, Any]]  # query, true spans, keys that only the task has


def ask(task: str, scene: Scene, video: str, stem: str, captions: tuple[Caption, ...]) -> list[Sample]:
    """The samples of one task other than grounding. What is drawn for them follows from the scene's seed and the task."""
    questions = QUESTIONS[task](scene, random.Random(f"{task} {scene.seed}"))
    return [
        Sample(f"{stem}_{task}_{number}", video, query, spans, scene.duration, captions=captions, task=task, extra=extra)
        for number, (query, spans, extra) in enumerate(questions)
    ]


def _several_or_none(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """All events of a shape, and one that doesn't occur though another much like it does."""
    shape = _most(event.shape for event in scene.events)
    yield f"something happens to a {shape}", _spans(event for event in scene.events if event.shape == shape), {}
    yield scene.absent(rng), (), {}


def _dense(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """When each of the events happens, asked in a random order."""
    events = rng.sample(scene.events, len(scene.events))
    queries = [event.text for event in events]
    yield number_queries(queries), _spans(events), {"queries": queries}


def _highlights(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """The parts with the colour that most events have."""
    color = _most(event.color for event in scene.events)
    yield f"something {color} is seen", _spans(event for event in scene.events if event.color == color), {}


def _actions(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """All actions of the kind that most events are of."""
    kind = _most(next(kind for kind, actions in KINDS.items() if event.action in actions) for event in scene.events)
    yield kind, _spans(event for event in scene.events if event.action in KINDS[kind]), {}


def _order(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """What happens first, or last, or before or after another event, among what happens and what doesn't."""
    events = scene.events
    number = rng.randrange(len(events))
    asked = [("what happens first?", 0), ("what happens last?", -1)]
    if number > 0:
        asked.append((f"what happens just after {events[number - 1].text}?", number))
    if number + 1 < len(events):
        asked.append((f"what happens just before {events[number + 1].text}?", number))
    question, place = rng.choice(asked)
    texts = [event.text for event in events]
    while len(texts) < CHOICES:
        texts = list(dict.fromkeys([*texts, scene.absent(rng)]))
    rng.shuffle(texts)
    letter = ascii_uppercase[texts.index(events[place].text)]
    yield question, _spans([events[place]]), {"choices": texts, "answer": letter}


def _order_alone(scene: Scene, rng: random.Random) -> Iterator[Question]:
    """The same, without the moment."""
    yield from ((question, (), extra) for question, _, extra in _order(scene, rng))


def _most(values: Iterator[str]) -> str:
    """What most of them are; the first of equals."""
    return Counter(values).most_common(1)[0][0]


def _spans(events: Iterator[Event] | Sequence[Event]) -> tuple[Span, ...]:
    return tuple((event.start, event.end) for event in events)


QUESTIONS: dict[str, Callable[[Scene, random.Random], Iterator[Question]]] = {
    "multi_span": _several_or_none,
    "dense": _dense,
    "highlights": _highlights,
    "grounded_qa": _order,
    "actions": _actions,
    "multiple_choice": _order_alone,
}
ASKED = (DEFAULT, *QUESTIONS)  # tasks that there are questions of
