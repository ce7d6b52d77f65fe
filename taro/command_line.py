"""What every command answers before it imports anything heavy: its help, and a flag or key that it does not have. And how a
mistake is said: one line with the reason, exit code 2."""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from taro.signatures import REQUIRED, Setting, read_settings

Settings = TypeVar("Settings")

CONFIGS = (Path(__file__).parent / "configs").resolve()  # in a checkout a link to the folder configs at its root
USAGE_ERROR = 2  # the exit code of argparse
CLOSE = 0.75  # of 1, for `did you mean`
OWN_FLAGS = ("config", "help", "print_config")  # of the parser itself
COLUMN = 44  # where the help of a setting starts
LONGEST_DEFAULT = 40  # characters


@dataclass(frozen=True)
class Command:
    """A command whose flags are settings of classes.

    Args:
        program: how it is called.
        about: what it does, the first lines of its help.
        parts: where its settings are, each with the prefix of their names: `module:Class`.
        extra: settings of no class.
        follows: settings that no one sets, with those that they follow.
        hidden: settings, and sections, that are left out of the help.
        base: file of defaults that is always loaded.
    """

    program: str
    about: str
    parts: Mapping[str, str]
    extra: Sequence[Setting] = ()
    follows: Mapping[str, str] = field(default_factory=dict)
    hidden: Sequence[str] = ()
    base: Path | None = None

    @cached_property
    def settings(self) -> list[Setting]:
        own = [setting for place, prefix in self.parts.items() for setting in read_settings(place, prefix)]
        return [*self.extra, *(setting for setting in own if setting.name not in self.follows)]

    @cached_property
    def names(self) -> list[str]:
        return [setting.name for setting in self.settings]

    def knows(self, name: str) -> bool:
        """A setting, a whole section of them, or something below a setting that may be an object of any class."""
        sections = {prefix.rstrip(".") for prefix in self.parts.values()}
        below_open = any(setting.is_open and name.startswith(f"{setting.name}.") for setting in self.settings)
        return name in self.names or name in sections or below_open

    def hides(self, name: str) -> bool:
        return any(name == hidden or name.startswith(f"{hidden}.") for hidden in self.hidden)


def answer_at_once(command: Command, arguments: Sequence[str]) -> None:
    """Print the help and end, where it is asked for; end with an error where a flag, or a key of a file, is unknown.

    Raises:
        SystemExit: there is nothing else to do.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        try:
            print(help_text(command, config_files(arguments)), flush=True)
        except BrokenPipeError:  # `| head` has seen enough; nothing must be written at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    if problems := [*unknown_flags(command, arguments), *unknown_keys(command, config_files(arguments))]:
        refuse_usage("; ".join(problems), command.program)


def refuse_usage(message: str, program: str) -> NoReturn:
    """One line, and exit code 2."""
    print(f"error: {one_line(message)} ({program} --help lists the settings)", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def one_line(message: str) -> str:
    """A parser's message without its own line breaks and without Python's way to name types. Of a number that is out of its
    range: the setting, the value, and what is allowed (`taro.ranges`)."""
    broken = re.search(r"Not of type \w+: (.*)\bmust be (.*)", message)
    if broken:
        keys = re.findall(r'Parser key "([^"]+)":', message[: broken.start()])
        given = re.search(r"Given value: (.*)", message[broken.end() :])  # where None is allowed, too
        return f"{'.'.join(keys)} = {broken[1].strip() or (given and given[1])}: must be {broken[2]}"
    message = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    return re.sub(r"<class '(\w+)'>", r"\1", " ".join(message.split()))


def program(name: str) -> str:
    """How `train` or `eval` is called by whoever calls this command: from a checkout, or as an installed command."""
    return f"taro-{name}" if Path(sys.argv[0]).name.startswith("taro-") else f"python {name}.py"


# ---- Configs ----


def find_config(name: str) -> str:
    """The path of a config: a file, or one that comes along, by its path (configs/qwen25_7b.yaml) or name (qwen25_7b)."""
    inside = name.removeprefix("configs/")
    for path in (Path(name), CONFIGS / inside, CONFIGS / f"{inside}.yaml"):
        if path.is_file():
            return str(path)
    return name


def with_found_configs(arguments: Iterable[str]) -> list[str]:
    """The same arguments, with the value of each --config as a path."""
    found, is_value = [], False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if is_value:
            argument = find_config(argument)
        elif flag in ("--config", "-c") and equals:
            argument = f"{flag}={find_config(value)}"
        is_value = argument in ("--config", "-c")
        found.append(argument)
    return found


def config_files(arguments: Iterable[str]) -> list[Path]:
    """Those that are named by --config and are there."""
    arguments = with_found_configs(arguments)
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(("--config=", "-c="))]
    values += [value for flag, value in pairwise(arguments) if flag in ("--config", "-c")]
    return [Path(value) for value in values if Path(value).is_file()]


def _leaves(values: Mapping[str, Any], command: Command, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a file with dots, down to settings and to what is no section."""
    opened = {setting.name for setting in command.settings if setting.is_open}
    for name, value in values.items():
        named = f"{prefix}{name}"
        is_section = isinstance(value, Mapping) and named not in opened and command.knows(named)
        yield from _leaves(value, command, f"{named}.") if is_section else [(named, value)]


def _load(path: Path, command: Command) -> dict[str, Any]:
    """{} where it is no YAML mapping: the parser says so."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(_leaves(values, command)) if isinstance(values, dict) else {}


# ---- What is unknown ----


def unknown_flags(command: Command, arguments: Iterable[str]) -> Iterator[str]:
    for name in flags_of(arguments):
        whole = name.removesuffix("+")
        if whole in OWN_FLAGS or whole.endswith(".help") or command.knows(whole):
            continue
        yield f"--{name} {_unknown(command, whole, '--')}"


def unknown_keys(command: Command, files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        yield from (f"{path}: {problem}" for problem in unknown_names(command, _load(path, command)))


def unknown_names(command: Command, names: Iterable[str]) -> Iterator[str]:
    return (f"{name} {_unknown(command, name, '')}" for name in names if not command.knows(name))


def _unknown(command: Command, name: str, dashes: str) -> str:
    if name in command.follows:
        return f"follows {dashes}{command.follows[name]}; set that"
    return f"is no setting{did_you_mean(name, command.names, dashes)}"


def flags_of(arguments: Iterable[str]) -> Iterator[str]:
    """Names of the long flags, without dashes and values."""
    for argument in arguments:
        if argument == "--":
            return
        if argument.startswith("--"):
            yield argument[2:].partition("=")[0]


def underscored(arguments: Iterable[str]) -> list[str]:
    """The same, flags with underscores in place of dashes: --api_base for --api-base."""
    return [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), argument) for argument in arguments]


def did_you_mean(name: str, known: Iterable[str], dashes: str = "") -> str:
    """`; did you mean ...?` with the known name whose last part, and then whole, is most like it; "" where none is."""

    def likeness(other: str) -> tuple[float, float]:
        last = name.rpartition(".")[2], other.rpartition(".")[2]
        return difflib.SequenceMatcher(None, *last).ratio(), difflib.SequenceMatcher(None, name, other).ratio()

    found = max(known, key=likeness, default="")
    return f"; did you mean {dashes}{found}?" if likeness(found)[0] >= CLOSE else ""


# ---- Help ----


def help_text(command: Command, files: Iterable[Path] = ()) -> str:
    """All settings in groups, with their defaults: those of `files`, the base file, and the classes."""
    values: dict[str, Any] = {}
    for path in (*([command.base] if command.base else []), *files):
        values |= _load(path, command)
    width = min(128, max(72, shutil.get_terminal_size((100, 24)).columns))
    lines = [command.about.strip(), ""]
    group = None
    for setting in command.settings:
        if command.hides(setting.name):
            continue
        if (own := setting.name.partition(".")[0] if "." in setting.name else "") != group:
            group = own
            lines += ["", f"{group}:" if group else "settings:"]
        if setting.name in values:
            setting = replace(setting, default=repr(values[setting.name]))
        lines += _describe(setting, width)
    return "\n".join(lines)


def _describe(setting: Setting, width: int) -> list[str]:
    text = re.split(r"(?<=[^.][^.\d])\. (?=[A-Z])", setting.help)[0] if setting.name.startswith("trainer.") else setting.help
    if len(setting.choices) > 1:
        text = f"{text} [{', '.join(setting.choices)}]"
    flag = f"  --{setting.name} {_shown(setting.default)}".rstrip()
    wrapped = textwrap.wrap(text, width - COLUMN) or [""]
    if len(flag) < COLUMN:
        wrapped[0], flag = f"{flag:<{COLUMN}}{wrapped[0]}", ""
        return [wrapped[0].rstrip(), *(" " * COLUMN + line for line in wrapped[1:])]
    return [flag, *(" " * COLUMN + line for line in wrapped if line)]


def _shown(default: str) -> str:
    """As it is written in YAML, in one line."""
    if default in ("", REQUIRED):
        return "(required)" if default else ""
    try:
        value = ast.literal_eval(default)
    except ValueError:  # an expression
        value = default
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    return text if len(text) <= LONGEST_DEFAULT else f"{text[: LONGEST_DEFAULT - 4]} ..."


# ---- Parsers ----


def parse_settings(
    kind: type[Settings], command: Command, arguments: Sequence[str] | None, switches: Sequence[str] = ()
) -> Settings:
    """An instance of a dataclass of settings, from flags and the files of --config.

    Args:
        switches: settings that are true when their flag is there, and take no value.
    """
    from jsonargparse import ArgumentParser  # help and typos are answered without it

    class SettingsParser(OneLineErrors, ArgumentParser):
        pass

    arguments = with_found_configs(sys.argv[1:] if arguments is None else arguments)
    answer_at_once(command, arguments)
    parser = SettingsParser(prog=command.program)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind, skip=set(switches))
    for switch in switches:
        parser.add_argument(f"--{switch}", action="store_true")
    settings = parser.instantiate(parser.parse_args(arguments))
    return kind(**{name: value for name, value in vars(settings).items() if name != "config"})


class OneLineErrors:
    """For a parser of argparse or jsonargparse: no abbreviations of flags, and a mistake is one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def error(self, message: str, *cause: Exception | None) -> NoReturn:
        if not getattr(self, "exit_on_error", True):  # a parser inside another one
            super().error(message, *cause)
        flags = re.fullmatch(r"unrecognized arguments: (--\S+).*", message, re.DOTALL)
        if flags:
            message += did_you_mean(flags[1].partition("=")[0], self._long_flags())
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            message += did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        refuse_usage(message, self.prog.replace(" [options]", ""))

    def _long_flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


class Parser(OneLineErrors, argparse.ArgumentParser):
    """argparse's; a flag that it does not have is named before one that is missing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        spec = sys.modules["__main__"].__spec__
        if spec is not None and spec.name.startswith("taro."):
            kwargs = {"prog": f"python -m {spec.name.removesuffix('.__main__')}"} | kwargs
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        arguments = sys.argv[1:] if args is None else args
        known = self._long_flags()
        for name in flags_of(arguments):
            if f"--{name}" not in known:
                self.error(f"--{name} is no flag{did_you_mean(f'--{name}', known)}")
        return super().parse_args(args, namespace)
