"""Rewards chosen by name, weighted and summed.

A reward is a function, or a class whose fields are its settings and whose instances are called. Its parameter says what it
takes:

- `completion`: one `Completion`; it returns a number, or {part: number};
- `group`: all completions of a prompt; it returns one number for each, or {part: numbers}; among them are those on shuffled
  frames (`completion.shuffled`), where a run has some, which the other two don't see;
- `completions`, with any columns: as TRL calls a `reward_func`: the texts of a group, and each column of the sample as often.
  Returned is one number for each; a None doesn't count.

G completions of one prompt.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress
from typing import Any, NoReturn

from taro.command_line import did_you_mean
from taro.errors import TaroError
from taro.messages import shorten
from taro.rl.rewards.completion import Completion
from taro.tasks import TASKS

HOME = "taro.rl.rewards"
REWARDS = {  # short names
    "format": f"{HOME}.parts.has_format",
    "timestamp_iou": f"{HOME}.parts.timestamp_iou",
    "iou": f"{HOME}.parts.iou",
    "answer": f"{HOME}.parts.answer",
    "taro": f"{HOME}.parts.taro",
    "time_r1": f"{HOME}.time_r1.TimeR1",
    "tempr1": f"{HOME}.tempr1.TempR1",
    "videochat_r1": f"{HOME}.videochat_r1.VideoChatR1",
    "tar_tvg": f"{HOME}.tar_tvg.TarTvg",
    "museg": f"{HOME}.museg.Museg",
    "timelens": f"{HOME}.timelens.TimeLens",
    "timelens2": f"{HOME}.timelens2.TimeLens2",
    "overlong": f"{HOME}.dapo.Overlong",
    "onethinker": f"{HOME}.onethinker.OneThinker",
    "t_grpo": f"{HOME}.t_grpo.TGRPO",
    "ra_rft": f"{HOME}.ra_rft.RaRft",
    "vital": f"{HOME}.vital.Vital",
    "videoauto_r1": f"{HOME}.videoauto_r1.VideoAutoR1",
}
WAYS = ("completion", "group", "completions")
LARGEST = 1e9  # of rewards and of weights: squares of their products are still float32's


class RewardError(TaroError):
    """A reward that is not there, or that can't be computed."""


Weights = Mapping[str, "float | Mapping[str, Any]"]
"""By name of a reward: its weight, or `weight` (1 unless given), `messages` (of TRL's kind) and its settings."""
TARO = {"format": 1.0, "timestamp_iou": 1.0}
Earned = tuple[dict[str, list[float]], dict[str, float]]
"""Each reward, or each part of one as `name/part`, (G) numbers; and the weight of each."""


class Rewards:
    """The rewards of a run. Raises RewardError where one is not there, or not with such settings.

    Args:
        weights: of all tasks that have none of their own.
        by_task: those of a task, in place of the others.
    """

    def __init__(self, weights: Weights = TARO, by_task: Mapping[str, Weights] | None = None) -> None:
        self.chosen = [ChosenReward.make(name, value) for name, value in weights.items()]
        self.by_task = {}
        for task, own in (by_task or {}).items():
            if task not in TASKS:
                raise RewardError(f"there is no task {task!r}{did_you_mean(task, TASKS)}; there are {', '.join(TASKS)}")
            self.by_task[task] = [ChosenReward.make(name, value) for name, value in own.items()]

    def __call__(self, group: Sequence[Completion]) -> Earned:
        """What a group earns. Raises RewardError."""
        values, weights = {}, {}
        for reward in self.by_task.get(group[0].task, self.chosen):
            for part, numbers in reward(group).items():
                name = f"{reward.name}/{part}" if part else reward.name
                values[name], weights[name] = numbers, reward.weight
        return values, weights


@dataclass(frozen=True)
class ChosenReward:
    """One reward: its name, how it is called, and its weight in the sum."""

    name: str
    function: Callable[..., Any]
    way: str
    weight: float = 1.0
    messages: bool = False
    """Whether `completions` are messages, [{"role": "assistant", "content": text}] each, as TRL has them in conversations."""

    @classmethod
    def make(cls, name: str, value: float | Mapping[str, Any] = 1.0) -> ChosenReward:
        settings = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight, messages = settings.pop("weight", 1.0), settings.pop("messages", False)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not abs(weight) <= LARGEST:
            raise RewardError(f"reward {name}: weight = {weight!r}: must be a number, at most {LARGEST:g}")
        found = import_path(REWARDS.get(name, name))
        if problems := list(_unknown_settings(found, settings)):
            raise RewardError(f"reward {name}: {'; '.join(problems)}")
        try:
            is_class = inspect.isclass(found)
            function = found(**settings) if is_class else partial(found, **settings) if settings else found
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError) as error:
            raise RewardError(f"reward {name} can't be made with the settings {settings}: {error}") from error
        ways = [way for way in WAYS if way in parameters]
        if not ways:
            raise RewardError(
                f"reward {name} takes {', '.join(parameters) or 'nothing'}; one of its parameters must be called "
                f"{', '.join(WAYS[:-1])} or {WAYS[-1]} (python -m taro.rl.rewards --help)"
            )
        way = ways[-1]
        if problem := _call_problem(way, inspect.signature(function)):
            raise RewardError(f"reward {name} {problem}")
        return cls(name, function, way, float(weight), bool(messages))

    def __call__(self, group: Sequence[Completion]) -> dict[str, list[float]]:
        """(G) numbers of each part, without those of completions on shuffled frames; a reward without parts is the part ""."""
        if self.way == "group":
            parts, own = self._parts(self._call(group, group), group), [not completion.shuffled for completion in group]
            return {name: list(compress(numbers, own)) for name, numbers in parts.items()}
        group = [completion for completion in group if not completion.shuffled]
        if self.way == "completion":
            each = [self._parts(self._call([one], one), [one]) for one in group]
            if len({tuple(parts) for parts in each}) != 1:
                self._refuse(group, f"returned different parts: {' and '.join(sorted({', '.join(parts) for parts in each}))}")
            return {name: [parts[name][0] for parts in each] for name in each[0]}
        return self._parts(self._call(group), group)

    def _call(self, group: Sequence[Completion], *arguments: Any) -> Any:
        columns = {} if arguments else _columns(self.function, group, self.messages)
        try:
            return self.function(*arguments, **columns)
        except Exception as error:
            self._refuse_raised(group, error)

    def _parts(self, result: Any, group: Sequence[Completion]) -> dict[str, list[float]]:
        parts = result if isinstance(result, Mapping) else {"": result}
        if not parts:
            one = "a number" if self.way == "completion" else "a list"
            self._refuse(group, f"returned {{}}, no part at all; it must be {one}, or {one} for each of one or more names")
        return {name: self._numbers(name, numbers, group) for name, numbers in parts.items()}

    def _numbers(self, part: str, result: Any, group: Sequence[Completion]) -> list[float]:
        """One finite number for each completion."""
        said = f"returned for {part!r}" if part else "returned"
        if self.way == "completion":
            result = [result]
        is_scalar = getattr(result, "ndim", None) == 0  # of torch and numpy, which have an __iter__ that raises
        if isinstance(result, str) or is_scalar or not hasattr(result, "__iter__"):
            self._refuse(group, f"{said} {shorten(result)}; it must be a list with a number for each completion")
        try:
            numbers = list(result)
        except Exception as error:  # of a generator, its own
            self._refuse_raised(group, error)
        if len(numbers) != len(group):
            self._refuse(group, f"{said} {len(numbers)} numbers for {len(group)} completions")
        return [self._number(said, number, completion) for number, completion in zip(numbers, group, strict=True)]

    def _number(self, said: str, value: Any, completion: Completion) -> float:
        if value is None and self.way == "completions":
            return 0.0
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except Exception:  # a value's own __float__ may raise anything
            number = math.nan
        if not abs(number) <= LARGEST:
            self._refuse([completion], f"{said} {value!r}; it must be a number, at most {LARGEST:g}")
        return number

    def _refuse_raised(self, group: Sequence[Completion], error: Exception) -> NoReturn:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}, line {last.lineno}"
        self._refuse(group, f"raised {type(error).__name__}: {error} ({where})", error)

    def _refuse(self, group: Sequence[Completion], problem: str, cause: Exception | None = None) -> NoReturn:
        first = group[0]
        which = "the text" if len(group) == 1 else f"{len(group)} texts, the first:"
        raise RewardError(f"reward {self.name} {problem}; sample {first.sample.id!r}, {which} {first.text!r}") from cause


def _unknown_settings(function: Callable[..., Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """What is to be said of settings that a reward doesn't take. One that can't be asked takes all."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    taken = () if inspect.isclass(function) else WAYS
    own = [name for name, one in parameters.items() if name not in taken and one.kind is not one.VAR_POSITIONAL]
    allowed = ["weight", "messages", *own]
    for name in settings:
        if name not in own:
            yield f"{name} is none of its settings{did_you_mean(str(name), allowed)}; there are {', '.join(allowed)}"


def _call_problem(way: str, signature: inspect.Signature) -> str | None:
    """Why a reward can't be called with its completion, or its group, alone, or with completions by name."""
    one, by_position = signature.parameters[way], way != "completions"
    if one.kind is one.VAR_KEYWORD:
        return f"takes **{way}; {way} must be a parameter"
    if not by_position:
        return f"gets {way} by name, and takes it by position" if one.kind is one.POSITIONAL_ONLY else None
    try:
        bound = signature.bind(None)
    except TypeError as error:
        return f"gets {way} alone, by position, and can't be called so: {error}"
    return None if way in bound.arguments else f"gets {way} as its first argument, which is {', '.join(bound.arguments)}"


def _columns(function: Callable[..., Any], group: Sequence[Completion], messages: bool) -> dict[str, list[Any]]:
    """What TRL's convention passes: (G) of each; of a function without `**columns`, those that it names."""
    sample = asdict(group[0].sample)
    one = sample.pop("extra") | sample | {"prompts": sample["query"]}
    columns = {name: [value] * len(group) for name, value in one.items()}
    texts = [[{"role": "assistant", "content": one.text}] if messages else one.text for one in group]
    columns |= {"completions": texts, "completion_ids": [list(one.token_ids) for one in group]}
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return columns if takes_all else {name: columns[name] for name in columns if name in {one.name for one in parameters}}


def import_path(path: str) -> Any:
    """What `module.name`, or `module:name`, is, with modules of the current folder, too. Raises RewardError."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise RewardError(
            f"there is no reward {path!r}{did_you_mean(path, REWARDS)} (there are {', '.join(REWARDS)}, and those of your own "
            "by their import path: module.function, or module:function, which can be a part of a flag)"
        )
    if os.getcwd() not in sys.path:  # of a command that is installed, and of a script in another folder
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # something that the module imports
            raise
        raise RewardError(f"reward {path}: there is no module {error.name!r}, in the current folder neither") from error
    except AttributeError as error:
        raise RewardError(f"reward {path}: {error}") from error
