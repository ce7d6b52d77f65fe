"""How a tiny base was made: the settings, and the `recipe.json` in its folder that says them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from taro.errors import TaroError
from taro.files import write_json
from taro.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Share, range_problems
from taro.synthetic.architecture import build_tokenizer
from taro.synthetic.questions import ASKED
from taro.tasks import DEFAULT, find_task

FILE = "recipe.json"
MADE_BY = "python -m taro.synthetic.tiny --output FOLDER"


class RecipeError(TaroError):
    """A folder holds no tiny base, or one that was made otherwise."""


@dataclass(frozen=True)
class Recipe:
    """Steps and targets of the stages.

    Args:
        tower_steps, tower_batch: of the vision tower; clips.
        text_steps, text_batch: of the decoder without video; rows.
        video_steps, noisy_steps, pretending_steps: on whole videos: with exact labels, with loose and wrong ones, and with
            reasoning that mostly says nothing.
        video_batch: scenes; each gives a row for each of its events, at most so many where `tasks` are others.
        widen, first_event: see `Targets`, while labels are loose and wrong.
        pretending_widen, pretending_first_event, timed_reasoning: the same for the last stage.
        tasks: of the questions of all stages but the tower's (docs/tasks.md); what is measured of the base is grounding.
        seed: of the weights and of all scenes.

    Raises:
        RecipeError: a number that is none of these, or tasks of which nothing is asked.
    """

    tower_steps: NonNegativeInt = 350
    tower_batch: PositiveInt = 256
    text_steps: NonNegativeInt = 1800
    text_batch: PositiveInt = 32
    video_steps: NonNegativeInt = 1300
    noisy_steps: NonNegativeInt = 260
    pretending_steps: NonNegativeInt = 300
    video_batch: PositiveInt = 7
    widen: NonNegativeFloat = 1.5
    first_event: Share = 0.6
    pretending_widen: NonNegativeFloat = 1.0
    pretending_first_event: Share = 0.3
    timed_reasoning: Share = 0.005
    tasks: tuple[str, ...] = (DEFAULT,)
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if problems := [*range_problems(self)]:
            raise RecipeError("; ".join(problems))
        names = dict.fromkeys(find_task(name).name for name in self.tasks)
        if unasked := [name for name in names if name not in ASKED]:
            raise RecipeError(f"the synthetic world asks no questions of the tasks {unasked}, but of {list(ASKED)}")
        object.__setattr__(self, "tasks", tuple(names))  # JSON has a list


LAST_STAGE = ("pretending_steps", "pretending_widen", "pretending_first_event", "timed_reasoning")


def write_recipe(folder: str | Path, log: dict[str, Any]) -> None:
    """
    Args:
        log: family, recipe, metrics and seconds of each stage.
    """
    write_json(Path(folder, FILE), log)


def read_recipe(folder: str | Path) -> dict[str, Any]:
    """What `write_recipe` wrote.

    Raises:
        RecipeError: there is none, or it says no settings.
    """
    path = Path(folder, FILE)
    try:
        log = json.loads(path.read_text())
        log["family"], Recipe(**log["recipe"])
    except FileNotFoundError:
        raise RecipeError(f"{folder}: has no {FILE}; {MADE_BY} makes a base with one") from None
    except (ValueError, TypeError, KeyError, RecipeError) as error:
        raise RecipeError(f"{path}: is no recipe of {MADE_BY} ({error})") from None
    return log


def check_base(folder: str | Path) -> Recipe:
    """The recipe of a tiny base that the synthetic configs can train.

    Raises:
        RecipeError: it has none, or another tokenizer than the tiny models', in whose tokens the configs' limits are.
    """
    log = read_recipe(folder)
    found, expected = AutoTokenizer.from_pretrained(str(folder)).get_vocab(), build_tokenizer().get_vocab()
    if found != expected:
        differing = len(found.items() ^ expected.items())
        raise RecipeError(
            f"{folder}: its tokenizer is not the tiny models' ({len(found)} tokens, expected {len(expected)}; {differing} "
            f"entries differ); name a base of {MADE_BY}"
        )
    return Recipe(**log["recipe"])


def check_start(
    folder: str | Path, family: str, recipe: Recipe, otherwise: str = "name a folder that is not there"
) -> dict[str, Any]:
    """What is known of a model that the recipe's last stage, or a later one, can begin with.

    Args:
        otherwise: what else can be done where settings differ.

    Raises:
        RecipeError: it is of another family, was made with other settings, or has had the last stage.
    """
    log = read_recipe(folder)
    if log["family"] != family:
        raise RecipeError(f"--start {folder}: is a {log['family']} model; set --family {log['family']}, or name another folder")
    if "pretending" in log["metrics"]:
        raise RecipeError(f"--start {folder}: has had the last stage; name a folder that --start has made")
    made, wanted = asdict(Recipe(**log["recipe"])), asdict(recipe)
    names = [name for name, value in wanted.items() if name not in LAST_STAGE and made[name] != value]
    if names:
        differing = ", ".join(f"{name} {made[name]}, not {wanted[name]}" for name in names)
        raise RecipeError(f"--start {folder}: was made with {differing}; set the same, or {otherwise}")
    return log
