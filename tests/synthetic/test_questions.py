from collections import Counter

import pytest

from taro.data.samples import load_samples, save_samples
from taro.synthetic.questions import KINDS, QUESTIONS
from taro.synthetic.world import ACTIONS, WorldSettings, draw_scene, scene_samples
from taro.tasks import DEFAULT, TASKS

SCENES = [draw_scene(seed) for seed in range(60)]


def questions(task, scene):
    return scene_samples(scene, f"v{scene.seed}.mp4", tasks=(task,))


def test_every_task_has_questions():
    assert {DEFAULT, *QUESTIONS} == set(TASKS) and sorted(ACTIONS) == sorted(a for kind in KINDS.values() for a in kind)
    for scene in SCENES[:5]:
        plain = scene_samples(scene, "v.mp4")
        assert scene_samples(scene, "v.mp4", tasks=tuple(TASKS))[: len(plain)] == plain
        assert [sample.task for sample in plain] == [DEFAULT] * len(scene.events)
    assert questions("dense", SCENES[0]) == questions("dense", draw_scene(0))


def test_they_can_be_loaded(tmp_path):
    asked = (scene_samples(scene, str(tmp_path / f"v{scene.seed}.mp4"), tasks=tuple(TASKS)) for scene in SCENES)
    samples = [sample for of_scene in asked for sample in of_scene]
    save_samples(samples, tmp_path / "all.jsonl")
    assert load_samples(tmp_path / "all.jsonl") == samples


def test_several_spans_or_none():
    counts = Counter()
    for scene in SCENES:
        shape, absent = questions("multi_span", scene)
        events = [event for event in scene.events if event.shape in shape.query]
        assert shape.spans == tuple((event.start, event.end) for event in events) and events
        assert absent.spans == () and absent.query not in [event.text for event in scene.events]
        counts[len(shape.spans)] += 1
    assert counts[1] > 5 and counts[2] + counts[3] > 20


def test_dense_questions_are_in_a_random_order():
    orders = set()
    for scene in SCENES:
        [sample] = questions("dense", scene)
        times = {event.text: (event.start, event.end) for event in scene.events}
        assert sorted(sample.extra["queries"]) == sorted(times)
        assert sample.spans == tuple(times[query] for query in sample.extra["queries"])
        orders.add(sample.spans == tuple(sorted(sample.spans)))
    assert orders == {True, False}


def test_questions_about_order():
    letters, kinds = Counter(), Counter()
    for scene in SCENES:
        [sample] = questions("grounded_qa", scene)
        choices, answer = sample.extra["choices"], sample.extra["choices"]["ABCD".index(sample.extra["answer"])]
        texts = [event.text for event in scene.events]
        assert len(set(choices)) == 4 and set(texts) <= set(choices)
        _, _, how, *rest = sample.query.rstrip("?").split(" ", 3)
        if how == "just":
            how, _, other = rest[0].partition(" ")
            expected = texts[texts.index(other) + (1 if how == "after" else -1)]
        else:
            expected = texts[0 if how == "first" else -1]
        event = scene.events[texts.index(answer)]
        assert answer == expected and sample.spans == ((event.start, event.end),)
        letters[sample.extra["answer"]] += 1
        kinds[how] += 1
    assert len(letters) == 4 and max(letters.values()) < 30 and set(kinds) == {"first", "last", "after", "before"}


def test_choices_alone_have_no_moment():
    [alone] = questions("multiple_choice", SCENES[0])
    assert alone.spans == () and len(alone.extra["choices"]) == 4 and alone.extra["answer"] in "ABCD"


@pytest.mark.parametrize(("task", "of"), [("actions", "action"), ("highlights", "color")])
def test_all_of_a_kind(task, of):
    several = 0
    for scene in SCENES:
        [sample] = questions(task, scene)
        names = KINDS[sample.query] if task == "actions" else sample.query.split()[1:2]
        events = [event for event in scene.events if getattr(event, of) in names]
        assert sample.spans == tuple((event.start, event.end) for event in events) and events
        several += len(events) > 1
    assert several > 20


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="there are no questions of 'tracking': grounding, "):
        WorldSettings(tasks=("tracking",))
