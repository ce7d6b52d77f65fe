"""Where a guess is right, and where it is wrong: benchmarks/method_parts.py."""

import numpy as np
import pytest

from taro.evaluation.scores import METRICS
from taro.synthetic.world import WorldSettings, draw_scene, first_seed, scene_samples


@pytest.fixture(scope="module")
def parts(import_benchmark):
    return import_benchmark("method_parts")


def ask(settings, videos):
    """Scenes of a test set and the ids of its queries, as they are written."""
    scenes = [draw_scene(first_seed("test", 0) + number, settings) for number in range(videos)]
    return scenes, [one.id for number, scene in enumerate(scenes) for one in scene_samples(scene, f"test_{number:05d}.mp4")]


def test_the_later_twin_is_the_one_that_comes_after_what_looks_like_it(parts):
    scenes, ids = ask(WorldSettings(lookalikes=True), 40)
    found = parts.list_parts(ids, lookalikes=True)
    assert np.array_equal(found["the earlier twin"], ~found["the later twin"]) and 0 < sum(found["the later twin"]) < 20
    for scene, later in zip(scenes, found["the later twin"], strict=True):
        asked = scene.events[scene.asked[0]]
        before = [event for event in scene.events if event.start < asked.start]
        twins = [e for e in before if (e.color, e.shape) == (asked.color, asked.shape) and e.action != asked.action]
        assert later <= bool(twins)  # a third event may have the colour and shape, too


def test_methods_are_compared_within_each_part(parts):
    _, ids = ask(WorldSettings(), 30)
    first = np.array([name.endswith("_0") for name in ids])

    def results(of_first, of_others):
        scores = np.zeros((len(ids), len(METRICS)))
        scores[:, METRICS.index("R1@0.5")] = np.where(first, of_first, of_others)
        return [{"name": "run", "ids": ids, "scores": scores.tolist(), "curves": {}, "tasks": ["grounding"] * len(ids)}] * 3

    found = {("b", "looser", "guess"): results(1.0, 0.0), ("b", "looser", "look"): results(0.75, 0.5)}
    rows = [row.strip("| ").split(" | ")[2:] for row in parts.part_table(found, "guess", lookalikes=()).splitlines()[2:]]
    sizes = str(sum(first)), str(sum(~first))
    assert [row[:4] for row in rows] == [
        ["guess", "the first event", sizes[0], "1.000 [1.000, 1.000]"],
        ["guess", "a later event", sizes[1], "0.000 [0.000, 0.000]"],
        ["look", "the first event", sizes[0], "0.750 [0.750, 0.750]"],
        ["look", "a later event", sizes[1], "0.500 [0.500, 0.500]"],
    ]
    assert rows[3][4:] == ["+0.500 [+0.500, +0.500]", "[+0.500, +0.500]"]
    of_tasks = [one | {"tasks": ["dense"] * len(ids)} for one in found["b", "looser", "look"]]
    assert parts.part_table({("b", "only_dense", "look"): of_tasks}, "look", lookalikes=()) == ""
