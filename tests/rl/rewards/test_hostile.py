"""No text of a model stops a run: whatever numbers it writes, each reward is a number that training takes."""

import pytest

from taro.rl.rewards.choose import LARGEST, REWARDS, ChosenReward, import_path

FAR = ("1" + "7" * 308, "9" * 308, "9" * 400, "9" * 5000, "1e308", "1e999", "NaN", "Infinity", "0.0", "8" + "0" * 15)
ANSWERS = (
    "{0} to {0}", "0 to {0}", "2 to {0}", "{0} to 2", "-{0} to {0}", "0-{0}", "{0}-{0}", "2.0s to {0}s, {0}s to 6.0s",
    "[[-{0}, {0}]]", "[[0, {0}]]", "[-{0}, {0}]", "[[-{0}, 0], [0, {0}]]",
    '{{"time": [-{0}, {0}]}}', '{{"time": ["0", "{0}"]}}',
)  # fmt: skip
TEXTS = (
    "<think>From {0}s to {0}s</think><answer>{0}</answer>",
    "<think><timestamp>0 to 1</timestamp><timestamp>{0}</timestamp></think><answer>{0}</answer><correction>{0}</correction>",
    r"\boxed{{{0}}}<think>a</think>\boxed{{{0}}}",
    "<think>a</think><answer>B</answer><glue>[(0, {1}), ({1}, {1})]</glue>",
    "{0}",
)
COLUMNS = {"answer": "B", "answerable_query": "a", "explanation": "b", "contrast": "c"}


def forms():
    for name in REWARDS:
        if name == "overlong":
            yield name, {"longest": 100, "buffer": 10}
        elif hasattr(import_path(REWARDS[name]), "form"):
            yield from ((name, {"form": form}) for form in ("published", "released"))
        else:
            yield name, {}


@pytest.mark.parametrize(("name", "settings"), list(forms()))
@pytest.mark.parametrize("task", ["grounding", "multi_span", "actions", "grounded_qa"])
def test_numbers_that_cant_be_times_are_harmless(complete, name, settings, task):
    reward = ChosenReward.make(name, settings)
    for far in FAR:
        for text in TEXTS:
            for answer in ANSWERS if "{0}" in text else ("",):
                completion = complete(text.format(answer.format(far), far), [(2, 6)], task, **COLUMNS)
                group = [completion, complete("<answer>2 to 6</answer>", [(2, 6)], task, shuffled=True, **COLUMNS)]
                for numbers in reward(group).values():
                    assert all(abs(number) <= LARGEST for number in numbers)
