import itertools
import math
import random
import sys
import time

import pytest

from taro.rl.rewards import format_reward, timestamp_iou_reward
from taro.rl.rewards.choose import REWARDS, ChosenReward, RewardError, Rewards

RIGHT, WRONG = "<think>a</think><answer>2 to 6</answer>", "<answer>9 to 12</answer>"
COLUMNS = {"answer": "B", "explanation": "a", "contrast": "b", "answerable_query": "c"}
FORMS = [
    (name, settings)
    for name in REWARDS
    for settings in ({}, {"form": "published"}, {"form": "released"})
    if not settings or hasattr(ChosenReward.make(name).function, "form")
]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module of one's own into the current folder and gives back its name."""
    monkeypatch.chdir(tmp_path)
    numbers = itertools.count()

    def write(text):
        name = f"own_{tmp_path.name}_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]


def test_the_default_is_taros(complete):
    group = [complete(RIGHT), complete(WRONG)]
    values, weights = Rewards()(group)
    assert values == {
        "format": [format_reward(RIGHT), format_reward(WRONG)],
        "timestamp_iou": [timestamp_iou_reward((2.0, 6.0), (2.0, 6.0), 16.0), 0.0],
    }
    assert weights == {"format": 1.0, "timestamp_iou": 1.0}


def test_parts_weights_and_settings(complete):
    rewards = Rewards({"tempr1": 0.5, "museg": {"weight": 2, "form": "released", "stage": 2}})
    values, weights = rewards([complete(RIGHT), complete(WRONG)])
    assert values["tempr1/format"] == [1.0, 0.0] and values["tempr1/iou"] == [1.0, 0.0]
    assert values["museg/format"] == [0.2, 0.0]
    assert set(weights.values()) == {0.5, 2.0} and weights["tempr1/iou"] == 0.5 and weights.keys() == values.keys()


def test_who_sees_completions_on_shuffled_frames(complete, own):
    module = own("def all_of(group):\n    return [len(group) + one.shuffled for one in group]\n"
                 "def trls(completions):\n    return [len(completions)] * len(completions)\n")  # fmt: skip
    group = [complete(RIGHT), complete(WRONG), complete(RIGHT, shuffled=True)]
    values, _ = Rewards({f"{module}.all_of": 1, f"{module}.trls": 1, "iou": 1})(group)
    assert [*values.values()] == [[3.0, 3.0], [2.0, 2.0], [1.0, 0.0]]


OWN = """
def one(completion):
    return len(completion.text)

def parts(completion):
    return {"a": 1, "b": completion.iou}

def together(group, power=1):
    return [len(group) ** power for _ in group]

def trl(prompts, completions, **columns):
    return [len(text) + len(columns["spans"][0]) + len(columns["sources"]) for text in completions]

def trl_bare(completions, answer):
    return [None if text == right else 2.0 for text, right in zip(completions, answer)]

def trl_messages(completions):
    return [len(messages[0]["content"]) for messages in completions]

class Length:
    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, completion):
        return self.scale * len(completion.text)
"""


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("one", {}, {"": [3, 2]}),
        ("parts", {}, {"a": [1, 1], "b": [0, 0]}),
        ("together", {"power": 2}, {"": [4, 4]}),
        ("trl", {}, {"": [3 + 1 + 2, 2 + 1 + 2]}),
        ("trl_bare", {}, {"": [2.0, 0.0]}),  # a None doesn't count
        ("trl_messages", {"messages": True}, {"": [3, 2]}),
        ("Length", {"scale": 0.5}, {"": [1.5, 1.0]}),
    ],
)
def test_a_reward_of_ones_own(complete, own, name, settings, expected):
    group = [complete("abc", answer="de", sources=["x", "y"]), complete("de", answer="de", sources=["x", "y"])]
    module = own(OWN)
    for path in (f"{module}.{name}", f"{module}:{name}"):
        assert ChosenReward.make(path, settings)(group) == expected


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("def f(completion):\n    return 1 / (len(completion.text) - 2)", "raised ZeroDivisionError: division by zero (own_"),
        ("def f(completion):\n    return float('nan')", "returned nan; it must be a number, at most 1e+09"),
        ("def f(completion):\n    return None", "returned None; it must be a number, at most 1e+09"),
        ("def f(completion):\n    return {'a': 1, 'b': 'high'}", "returned for 'b' 'high'; it must be a number, at most 1e+09"),
        ("def f(completions, **columns):\n    return [1.0]", "returned 1 numbers for 2 completions"),
        ("def f(completions, **columns):\n    return 1.0", "returned 1.0; it must be a list with a number for each completion"),
        ("def f(completions, **columns):\n    pass", "returned null; it must be a list"),
        ("def f(completions):\n    return ['a', 1]", "returned 'a'; it must be a number, at most 1e+09"),
        ("def f(group):\n    return [1, float('inf')]", "returned inf; it must be a number, at most 1e+09"),
        ("def f(group):\n    return group[2:]", "returned 0 numbers for 2 completions"),
        ("def f(completion):\n    return {completion.text: 1}", "returned different parts: abc and de"),
        ("def f(completion):\n    return '1'", "returned '1'; it must be a number, at most 1e+09"),
        ("def f(completion):\n    return 10**400", "returned 10000"),
        ("def f(completion):\n    return 1e300", "returned 1e+300; it must be a number, at most 1e+09"),
        ("def f(completions, labels):\n    return [1, 1]", "raised TypeError"),
        ("def f(completions):\n    return (int(text) for text in completions)", "raised ValueError: invalid literal for int()"),
        ("def f(group):\n    yield from {}['x']", "raised KeyError: 'x' (own_"),
        ("import torch\ndef f(completions):\n    return torch.tensor(1.0)", "returned \"tensor(1.)\"; it must be a list"),
        ("import numpy\ndef f(group):\n    return numpy.array(1.0)", "returned \"array(1.)\"; it must be a list"),
        ("class V:\n    def __float__(self):\n        raise RuntimeError\n    def __repr__(self):\n        return 'V'\n"
         "def f(completion):\n    return V()", "returned V; it must be a number, at most 1e+09"),
        ("def f(completion):\n    return {}", "returned {}, no part at all; it must be a number, or a number for each of one"),
        ("def f(group):\n    return {}", "returned {}, no part at all; it must be a list, or a list for each of one or more"),
    ],
)
def test_what_goes_wrong_names_the_sample_and_the_text(complete, own, body, problem):
    name = f"{own(body)}.f"
    with pytest.raises(RewardError) as error:
        ChosenReward.make(name)([complete("abc"), complete("de")])
    said = str(error.value)
    text = "'de'" if "ZeroDivision" in problem or "inf" in problem else "'abc'"
    assert said.startswith(f"reward {name} {problem}") and "; sample 'one', " in said
    assert said.endswith((f" the text {text}", f" 2 texts, the first: {text}"))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("temp1", 1, "there is no reward 'temp1'; did you mean tempr1? (there are format, timestamp_iou, iou, answer, taro"),
        ("no_module_of_this_name.f", 1, "there is no module 'no_module_of_this_name'"),
        ("taro.rl.rewards.tempr1.Temp", 1, "has no attribute 'Temp'"),
        ("tempr1", {"sigmas": 1}, "tempr1: sigmas is none of its settings; did you mean sigma?; there are weight, messages, s"),
        ("iou", {"mesages": True}, "mesages is none of its settings; did you mean messages?"),
        ("iou", {1: 2}, "1 is none of its settings"),
        ("iou", {"sigma": 1}, "iou: sigma is none of its settings; there are weight, messages"),
        ("tempr1", 1e10, "weight = 10000000000.0: must be a number, at most 1e+09"),
        ("museg", {"form": "paper"}, "form = 'paper': allowed are 'published', 'released'"),
        ("tempr1", {"sigma": "high"}, "sigma = 'high': it should be a valid number"),
        ("tempr1", {"sigma": 0}, "sigma = 0: it should be greater than 0"),
        ("timelens2", {"beta": -1.0}, "beta = -1.0: it should be greater than 0"),
        ("timelens2", {"beta": math.inf}, "beta = inf: it should be a finite number"),
        ("vital", {"low": 0.8, "high": 0.8}, "low must be below high, got 0.8 and 0.8"),
        ("vital", {"low": None}, "low = None: it should be a valid number"),
        ("tar_tvg", {"count": 2.5}, "count = 2.5: it should be a valid integer"),
        ("t_grpo", {"bonus": True}, "bonus = True: it should be a valid number"),
        ("ra_rft", {"similarity": "nowhere_to_be_found.f"}, "similarity = 'nowhere_to_be_found.f': "),
        ("tempr1", {"weight": "high"}, "weight = 'high': must be a number"),
        ("tempr1", math.nan, "weight = nan: must be a number"),
        ("os.path.join", {"weight": 1}, "takes a, p; one of its parameters must be called"),
        ("math.fmod", 1, "takes x, y; one of its parameters must be called completion, group or completions"),
    ],
)
def test_what_can_not_be_chosen(name, value, problem):
    with pytest.raises(RewardError) as error:
        Rewards({name: value})
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        ("completion, labels", "gets completion alone, by position, and can't be called so: missing a"),
        ("*, completion", "gets completion alone, by position, and can't be called so: "),
        ("group, labels, power=2", "gets group alone, by position, and can't be called so: missing"),
        ("power=2.0, completion=None", "gets completion as its first argument, which is power"),
        ("**completion", "takes **completion; completion must be a parameter"),
        ("completions, /", "gets completions by name, and takes it by position"),
    ],
)
def test_one_that_can_not_be_called_is_found_when_it_is_chosen(own, signature, problem):
    name = f"{own(f'def f({signature}):{chr(10)}    return 1.0')}.f"
    with pytest.raises(RewardError) as error:
        Rewards({name: 1})
    assert problem in str(error.value)


def test_one_with_keyword_arguments_may_take_any_setting(own, complete):
    name = own("def f(completions, **more):\n    return [more['threshold']] * len(completions)\n")
    assert Rewards({f"{name}.f": {"threshold": 0.5}})([complete(RIGHT)])[0] == {f"{name}.f": [0.5]}


def test_a_class_of_ones_own_may_take_any_setting(own, complete):
    name = own("class Any:\n    def __init__(self, **settings):\n        self.settings = settings\n"
               "    def __call__(self, completion, *rest, **more):\n        return self.settings['a']\n")  # fmt: skip
    assert Rewards({f"{name}.Any": {"a": 2}})([complete(RIGHT)])[0] == {f"{name}.Any": [2.0]}


def test_an_import_that_fails_in_a_module_of_ones_own_is_shown_as_it_is(own):
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        Rewards({f"{own('import not_installed')}.f": 1})


PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "<glue>", "</glue>", "<timestamp>", "</timestamp>", "<tool_call>",
    "</tool_call>", "<correction>", "</correction>", "\\boxed{", "}", '{"time": [', "[[", "]]", "[", "]", "(", ")", ", ", "2",
    "6.0", "1:05", "7s", " to ", "-", " and ", "none", "NaN", "1e999", "9" * 400, "é", "\n", " ", "B", "Let's analyze",
    "\ud800",
]  # fmt: skip


@pytest.mark.slow
def test_no_text_breaks_a_reward(complete):
    """Each has finite rewards, in time."""
    rng, started = random.Random(0), time.process_time()
    rewards = [ChosenReward.make(name, settings) for name, settings in FORMS]
    truths, tasks = [(), ((2, 6),), ((2, 6), (4, 9))], ["grounding", "dense", "highlights", "grounded_qa", "actions"]
    for _ in range(200):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 40)))
        completion = complete(text, rng.choice(truths), rng.choice(tasks), **COLUMNS)
        for reward in rewards:
            assert all(map(math.isfinite, itertools.chain(*reward([completion]).values())))
    for piece in PIECES:  # and long ones
        for reward in rewards:
            reward([complete(piece * (4000 // len(piece)), **COLUMNS)])
    assert time.process_time() - started < 60


def test_rewards_of_a_task(complete):
    rewards = Rewards({"format": 1.0}, {"grounded_qa": {"iou": 1.0, "answer": 0.5}})
    text = "<think>a</think><answer>B, 2 to 6</answer>"
    assert rewards([complete(text)]) == ({"format": [1.0]}, {"format": 1.0})
    values, weights = rewards([complete(text, task="grounded_qa", answer="B"), complete("B", task="grounded_qa", answer="B")])
    assert values == {"iou": [1.0, 0.0], "answer": [1.0, 0.0]} and weights == {"iou": 1.0, "answer": 0.5}
    with pytest.raises(RewardError, match=r"there is no task 'dens'; did you mean dense\?; there are grounding, "):
        Rewards({}, {"dens": {"iou": 1.0}})


def test_the_default_rewards_reward_every_task(complete):
    """Where there are no two ends to compare, the IoU is the task's."""
    text = "<think>a</think><answer>4 to 6, 0 to 2</answer>"
    for task, iou in {"dense": 0.0, "highlights": 1.0, "actions": 1.0, "multi_span": 1.0, "grounding": 1.0}.items():
        values, _ = Rewards()([complete(text, ((0, 2), (4, 6)), task)])
        assert values["timestamp_iou"] == [iou], task
    assert Rewards()([complete("<answer>none</answer>", (), "multi_span")])[0]["timestamp_iou"] == [1.0]
