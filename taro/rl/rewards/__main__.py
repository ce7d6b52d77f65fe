"""What a text is worth to each reward:

    python -m taro.rl.rewards explain --task grounding --truth 2 6 --text "<think>a</think><answer>2.5s to 6.5s</answer>"
    python -m taro.rl.rewards explain --task actions --truth 2 6 9 12 --duration 30 --rewards tempr1 museg --text - < answer.txt
    python -m taro.rl.rewards explain --task grounding --truth none --text "<answer>none</answer>"
    python -m taro.rl.rewards explain --truth 2 6 --text "<answer>2 to 6</answer>" --rewards '{museg: {stage: 2}}' iou

Printed is every part of every reward, before its weight, in the form that was published and, where it differs, in the one that
was released. Settings are given as in a config, {name: {setting: value}}; where `form` is one of them, there is no other row. A
reward of your own is given by its import path, module.function, of a module in the current folder, too. Its parameter says what
it takes: `completion`, `group`, or `completions` as TRL calls it (docs/rewards.md).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from taro.command_line import Parser
from taro.errors import clean_exit

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_TIME = rf"{_NUMBER}(?:\s?s(?:ec(?:ond)?s?)?)?"
_SPAN = rf"{_TIME}(?:[-–]|\s[-–]\s|\s(?:to|and)\s|\s){_TIME}"
_SPANS = re.compile(rf"{_SPAN}(?:\s(?:and\s)?{_SPAN})*", re.IGNORECASE)
_BRACKETS = re.compile(r"[\s\[\](),;]+")


def make_parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["explain"])
    parser.add_argument("--task", default="grounding", help="of the sample (grounding); docs/tasks.md lists them")
    parser.add_argument("--truth", nargs="+", required=True, help="start and end of each true span in seconds, or none")
    parser.add_argument("--text", required=True, help="the completion; - reads it from the input")
    parser.add_argument("--duration", type=float, help="of the video in seconds; the largest time there is unless given")
    parser.add_argument("--columns", type=_columns, default={}, help='other keys of the sample, JSON: {"answer": "B"}')
    about = "names, import paths, or with settings as in a config: '{museg: {stage: 2}}'; all names unless given"
    parser.add_argument("--rewards", nargs="+", type=_named, metavar="REWARD", help=about)
    return parser


def _columns(text: str) -> dict[str, Any]:
    try:
        columns = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: no JSON ({error})") from error
    if not isinstance(columns, dict):
        raise argparse.ArgumentTypeError(f'{text}: it must be a JSON object with the keys of a row, as {{"answer": "B"}}')
    return columns


def _named(text: str) -> dict[str, Any]:
    """Rewards by name with their settings, of a name or of what a config has."""
    if not text.lstrip().startswith("{"):
        return {text: {}}
    import yaml

    try:
        rewards = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text}: no YAML ({' '.join(str(error).split())})") from error
    if not all(isinstance(name, str) and isinstance(value, dict | int | float) for name, value in rewards.items()):
        raise argparse.ArgumentTypeError(f"{text}: it must be {{name: {{setting: value}}}} or {{name: weight}}, as in a config")
    return rewards


def read_truth(words: Sequence[str]) -> list[tuple[float, float]]:
    """`2 6 9 12`, `2-6 9-12`, `2s to 6s and 9s to 12s`, `[[2, 6], [9, 12]]` or `none`. Raises ValueError where it is anything
    else."""
    said = " ".join(words)
    text = _BRACKETS.sub(" ", said).strip()
    if said.strip().lower() in ("none", "[]"):
        return []
    if not _SPANS.fullmatch(text):
        raise ValueError(f"--truth {said}: it must be start and end of each span in seconds (2 6 9 12), or none")
    times = [float(number) for number in re.findall(_NUMBER, text)]
    spans = list(zip(times[::2], times[1::2], strict=True))
    if wrong := [span for span in spans if not span[0] < span[1] < math.inf]:
        raise ValueError(f"--truth {said}: {wrong[0][0]:g} to {wrong[0][1]:g} does not end after it starts")
    return spans


def _fits(duration: float, spans: Sequence[tuple[float, float]]) -> bool:
    return 0 < duration < math.inf and all(end <= duration for _, end in spans)


def explain(name: str, value: Any, completion: Any) -> Iterator[tuple[str, str, str, str]]:
    """A row for each form: the reward with its settings, the form, the sum, and its parts. `value`: as in a config."""
    import yaml

    from taro.rl.rewards.choose import ChosenReward, RewardError

    has_forms = hasattr(ChosenReward.make(name, value).function, "form")
    settings = {setting: one for setting, one in value.items() if setting != "weight"} if isinstance(value, dict) else {}
    forms = ("published", "released") if has_forms else ("",)
    if has_forms and "form" in settings:
        forms = (settings.pop("form"),)
    shown = f"{name} {yaml.safe_dump(settings, default_flow_style=True, width=math.inf).strip()}" if settings else name
    for form in forms:
        reward = ChosenReward.make(name, settings | ({"form": form} if form else {}))
        try:
            parts = {part: values[0] for part, values in reward([completion]).items()}
        except RewardError as error:
            cause = error.__cause__
            if not isinstance(cause, ValueError):
                raise
            yield shown, form, "-", str(cause)
            continue
        said = ", ".join(f"{part} {value:.3f}" for part, value in parts.items() if part)
        yield shown, form, f"{sum(parts.values()):.3f}", said


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        spans = read_truth(given.truth)
        if given.duration is not None and not _fits(given.duration, spans):
            raise ValueError(f"--duration {given.duration:g}: must be a number of seconds, and the truth must end by then")
    except ValueError as error:
        parser.error(str(error))

    from taro.data.rows import Sample
    from taro.messages import print_table
    from taro.prompts import numbers_in
    from taro.rl.rewards import Completion
    from taro.rl.rewards.choose import REWARDS
    from taro.tasks import find_task

    task = find_task(given.task)
    text = sys.stdin.read() if given.text == "-" else given.text
    times = [*numbers_in(text), *(time for span in spans for time in span)]
    duration = max(filter(math.isfinite, times), default=0.0) or 1.0 if given.duration is None else given.duration
    sample = Sample("explained", "", "", tuple(spans), duration, task=given.task, extra=given.columns)
    completion = Completion(text, sample)
    answer = task.read(text)
    said = "none that can be read" if completion.spans is None else _listed(completion.spans)
    said += f"; choice: {answer.choice or 'none'}" if task.has_choices else ""
    print(f"truth: {_listed(spans)} of {duration:g} s; answer: {said}; IoU {completion.iou:.3f}")
    chosen = [one for rewards in given.rewards or [dict.fromkeys(REWARDS, 1.0)] for one in rewards.items()]
    print_table(
        ("reward", "form", "sum", "parts"),
        [row for name, value in chosen for row in explain(name, value, completion)],
    )


def _listed(spans: Sequence[tuple[float, float]]) -> str:
    return ", ".join(f"{start:g} to {end:g}" for start, end in spans) or "it doesn't occur"


if __name__ == "__main__":
    with clean_exit():
        main()
