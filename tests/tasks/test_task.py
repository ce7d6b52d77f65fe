"""What all tasks have in common."""

import random
from pathlib import Path

import pytest

from taro.data.samples import Caption, load_samples
from taro.prompts import DEFAULT_PROMPT, build_request, constructed_path, has_format
from taro.tasks import NO_ANSWER, TASKS, Answer, TaskError, find_task

ROOT = Path(__file__).parents[2]
EXTRA = {"queries": ["a dog runs"], "choices": ["x", "y"], "answer": "A"}
CAPTIONS = (Caption(1.0, 3.0, "a dog runs"), Caption(4.0, 6.0, "a man sits"))


def test_an_unknown_task_is_named_with_those_that_there_are():
    with pytest.raises(TaskError, match=r"there is no task 'actionz'; did you mean actions\?; there are grounding, "):
        find_task("actionz")
    assert all(find_task(name).name == name for name in TASKS) and len(set(TASKS.values())) == len(TASKS)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "grounding"])
def test_the_request_shows_an_answer_that_is_read(asked, name):
    task = TASKS[name]
    request = build_request(task.subject(asked(name, **EXTRA)), DEFAULT_PROMPT, task.instruction)
    assert request.endswith(f"\n\n{task.instruction}") and request.startswith(DEFAULT_PROMPT.partition("{query}")[0])
    shown = task.read(task.instruction.partition(", or write")[0])
    assert bool(shown.spans) == (name != "multiple_choice") and (shown.choice == "B") == task.has_choices


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_paths(asked, task):
    sample = asked(task.name, captions=CAPTIONS, **EXTRA)
    assert task.path(sample, (), random.Random(0)) is None
    path = task.path(sample, CAPTIONS, random.Random(0))
    if task.name == "highlights":
        assert path is None
    else:
        first, *rest = path.splitlines()[1:]
        assert first.endswith(".") and "a dog runs" in first and "{" not in first and rest[0].startswith("From ")
    if task.name == "grounding":
        assert path == constructed_path(sample.query, CAPTIONS, random.Random(0))


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_whole_path_answers_what_is_read(asked, task):
    sample = asked(task.name, spans=[(1.0, 3.0), (4.0, 6.25)], captions=CAPTIONS, **EXTRA)
    spans = {"grounding": ((4.0, 6.2),), "multiple_choice": ()}.get(task.name, ((1.0, 3.0), (4.0, 6.2)))
    answer = Answer(spans, "A" if task.has_choices else None)
    path = task.full_path(sample, CAPTIONS, answer)
    assert has_format(path) and task.read(path) == answer
    if task.opening is not None:
        assert path.startswith(task.path(sample, CAPTIONS[:1], random.Random(0)))
    if task.allows_none:
        none = Answer((), answer.choice)
        assert task.read(task.full_path(sample, CAPTIONS, none)) == none


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("truth", [(), ((2.0, 6.0),)])
def test_scores_are_shares_with_the_same_names(task, truth):
    own = list(task.scores(NO_ANSWER, Answer(())))
    spans = (None, (), ((2.0, 6.0),), ((6.0, 2.0),), ((3.0, 3.0),), ((2.0, 4.0), (4.0, 6.0)), ((0.0, 9.0), (3.0, 4.0)))
    for answer in spans:
        for choice in (None, "A"):
            scores = task.scores(Answer(answer, choice), Answer(truth, "A" if task.has_choices else None))
            assert list(scores) == own and all(0 <= value <= 1 for value in scores.values())
        assert 0 <= task.iou(Answer(answer), Answer(truth)) <= 1
        assert answer is not None or task.iou(Answer(answer), Answer(truth)) == 0


PIECES = [
    "<answer>", "</answer>", "<ANSWER>", "none", "no such event", "1", "2.5", "12:30", "1e9", "9" * 400, " to ", "-", ", ",
    " and ", "s", "B", "(", ")", "[]", "\n", " ", "é",
]  # fmt: skip


def test_no_text_breaks_a_reading():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 30)))
        for task in TASKS.values():
            answer = task.read(text)
            assert answer.spans is None or all(len(span) == 2 for span in answer.spans)


def test_the_rows_of_the_docs_are_samples(tmp_path):
    rows = [line for line in (ROOT / "docs" / "tasks.md").read_text().splitlines() if line.startswith("{")]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    assert [sample.task for sample in load_samples(tmp_path / "rows.jsonl")] == list(TASKS)
