"""DAPO's dynamic sampling (arXiv 2503.14476): a prompt whose completions all earn the same teaches nothing; another is drawn in
its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from taro.data.examples import TrainingExample
from taro.distributed import gather
from taro.rl.group import Group
from taro.rl.group_rewards import earned_total


@dataclass
class Drawn:
    """What a step is made of. Filled by `draw_groups`."""

    by_place: dict[int, Group] = field(default_factory=dict)  # in the order of the batch
    failed: list[TrainingExample] = field(default_factory=list)  # of all that were drawn: without a prompt
    again: int = 0  # prompts that were drawn in the place of others

    @property
    def groups(self) -> list[Group]:
        return list(self.by_place.values())


def draw_groups(
    batch: Sequence[TrainingExample],
    generate: Callable[[list[TrainingExample]], list[Group]],
    draw_again: Callable[[Sequence[int], int], list[TrainingExample]],
    rounds: int,
    note: Callable[[Group], None],
) -> Drawn:
    """The groups of a batch. While completions of a group all earn the same, and `rounds` are left, another prompt is drawn in
    its place; then it stays as it is, as where what is drawn has no prompt.

    All ranks call this, and go through the same number of rounds: they share the engine.

    Args:
        generate: the groups of prompts, with what they earn if there are `rounds`.
        draw_again: other prompts for these places of the batch, in the round of that number, from 1.
        note: keeps in mind a group that another one takes the place of.
    """
    drawn, places, examples = Drawn(), range(len(batch)), batch
    for number in range(rounds + 1):
        drawn.failed += [example for example in examples if example.prompt is None]
        usable = {place: example for place, example in zip(places, examples, strict=True) if example.prompt is not None}
        for place in usable:
            if place in drawn.by_place:
                note(drawn.by_place[place])
        drawn.by_place |= zip(usable, generate(list(usable.values())), strict=True)
        if number == rounds:
            break
        places = [place for place, group in drawn.by_place.items() if not differs(group)]
        if not any(gather(bool(places))):
            break
        examples = draw_again(places, number + 1)
        drawn.again += len(places)
    return drawn


def differs(group: Group) -> bool:
    """Whether some of its completions earn more than others."""
    total = earned_total(group)  # (G,)
    return bool(total.max() > total.min())
