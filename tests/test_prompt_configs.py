"""The prompts of configs/prompts ask for what the rewards of their experiments read: the example in each is paid."""

import re
from pathlib import Path

import pytest
import yaml

from taro.data.samples import Sample
from taro.prompts import build_request, find_tag, has_format, parse_answer
from taro.rl.rewards import Completion
from taro.rl.rewards.choose import ChosenReward
from taro.rl.rewards.tar_tvg import anchors

CONFIGS = Path(__file__).parents[1] / "configs"
PROMPTS = {
    path.stem: yaml.safe_load(path.read_text())["data"]["grounding"]["prompt"]
    for path in sorted((CONFIGS / "prompts").glob("*.yaml"))
}
TRUTH = (8.5, 12.4)  # of the example that all have
COLUMNS = {"answerable_query": "a woman waters the plants"}


def examples(name):
    """The completions that a prompt shows."""
    return [text.strip() for text in re.split(r"Example, for the event .*:\n", PROMPTS[name])[1:]]


def paid(name, text, spans=(TRUTH,), task="grounding", **settings):
    """What the experiment of this name pays for a text."""
    sample = Sample("a", "a.mp4", "a woman waters the plants", spans, 15.0, task=task, extra=COLUMNS)
    rewards = yaml.safe_load((CONFIGS / "experiments" / f"{name}.yaml").read_text())["model"]["rewards"]
    ((reward, weight),) = rewards.items()
    values = ChosenReward.make(reward, {"weight": weight, **settings})([Completion(text, sample)])
    return {part: numbers[0] for part, numbers in values.items()}


def test_there_is_one_for_each_experiment_that_needs_it():
    assert set(PROMPTS) == {"no_think", "ra_rft", "tar_tvg", "timelens"}


@pytest.mark.parametrize("name", PROMPTS)
def test_it_sets_the_prompt_alone_and_says_how_it_is_laid_over(name):
    text = (CONFIGS / "prompts" / f"{name}.yaml").read_text()
    assert yaml.safe_load(text) == {"data": {"grounding": {"prompt": PROMPTS[name]}}}
    assert "a dog runs" in build_request("a dog runs.", PROMPTS[name])
    experiment = (CONFIGS / "experiments" / f"{name}.yaml").read_text()
    order = [f"configs/{folder}{file}.yaml" for folder, file in (("", "qwen25_7b"), ("experiments/", name), ("prompts/", name))]
    assert all(" ".join(f"--config {one}" for one in order) in one for one in (text, experiment))


@pytest.mark.parametrize("name", ["no_think", "timelens"])
def test_an_answer_at_once(name):
    (example,) = examples(name)
    assert parse_answer(example) == TRUTH and paid(name, example) == {"": 1.0}
    assert "think>" not in PROMPTS[name] and find_tag(example) == "<answer>"


def test_timelens_in_both_forms():
    assert paid("timelens", *examples("timelens"), form="released") == {"": 1.0}


def test_anchors_that_come_nearer():
    (example,) = examples("tar_tvg")
    assert len(anchors(example)) == 2 and has_format(example)
    assert paid("tar_tvg", example) == {"format": 1.0, "soft_iou": 1.0, "anchors": 1.0}


@pytest.mark.parametrize("form", ["published", "released"])
def test_an_answer_or_a_refusal_and_a_correction(form):
    occurs, absent = examples("ra_rft")
    right = {"format": 1.0, "grounding": 1.0, "correction": 1.0}
    assert paid("ra_rft", occurs, task="multi_span", form=form) == right
    assert paid("ra_rft", absent, (), task="multi_span", form=form) == right


def test_the_stages_say_what_to_add():
    text = (CONFIGS / "stages" / "tar_tvg.yaml").read_text()
    assert "configs/stages/tar_tvg.yaml --config configs/qwen25_7b.yaml --config configs/prompts/tar_tvg.yaml" in text
