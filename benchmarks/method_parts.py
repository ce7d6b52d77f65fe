"""Parts of the synthetic test sets in which a guess is right, and those in which it is wrong. S seeds, N queries.

Who always answers with the first event of a video is right for the first ones; in the world of look-alikes who always answers
with the earlier twin, for three of four. A method that has learned to look is told by the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from method_tables import compare, spread, stack

from taro.evaluation.scores import METRICS
from taro.synthetic.world import OPPOSITES, Scene, WorldSettings, draw_scene, first_seed
from taro.tasks import DEFAULT

METRIC = "R1@0.5"


def part_table(results: Mapping[tuple, list[dict]], against: str, lookalikes: Collection[str]) -> str:
    """Markdown, one row for each base, world and method, of worlds in which one event is asked for; "" without any."""
    lines = []
    for (base, world, method), found in results.items():
        if set(found[0].get("tasks", [DEFAULT])) != {DEFAULT}:  # results of before there were others have none
            continue
        other = results.get((base, world, against), [])
        parts = list_parts(found[0]["ids"], lookalikes=world in lookalikes)
        for name, asked in parts.items():
            scores = stack(found)[:, asked, METRICS.index(METRIC)]  # (S, N of the part)
            against_it = compare(found, other, METRIC, asked) if other and method != against else ["", ""]
            cells = [base, world, method, name, str(sum(asked)), spread(scores.mean(1)), *against_it]
            lines.append(f"| {' | '.join(cells)} |")
    heads = ["base", "world", "method", "asked for", "queries", METRIC, f"above `{against}`", "by seeds alone"]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines]) if lines else ""


def list_parts(ids: Sequence[str], *, lookalikes: bool) -> dict[str, np.ndarray]:
    """Which of the queries are in each part, (N,) bool. Ids are the world's: test_VIDEO_EVENT, events in order of time."""
    places = [tuple(map(int, name.split("_")[1:])) for name in ids]
    if not lookalikes:
        first = np.array([event == 0 for _, event in places])
        return {"the first event": first, "a later event": ~first}
    seed, settings = first_seed("test", 0), WorldSettings(lookalikes=True)
    earlier = np.array([event < find_twin(draw_scene(seed + video, settings), event) for video, event in places])
    return {"the earlier twin": earlier, "the later twin": ~earlier}


def find_twin(scene: Scene, event: int) -> int:
    """The place of the event that has the same colour and shape as this one and does the opposite."""
    asked = scene.events[event]
    (place,) = [
        place
        for place, other in enumerate(scene.events)
        if (other.color, other.shape, other.action) == (asked.color, asked.shape, OPPOSITES[asked.action])
    ]
    return place
