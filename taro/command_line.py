"""What every command answers before it imports anything heavy: its help, and a flag or key that it does not have. And how a
mistake is said: one line with the reason, exit code 2."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from taro.parser_messages import one_line
from taro.signatures import Setting, read_settings

Settings = TypeVar("Settings")

CONFIGS = (Path(__file__).parent / "configs").resolve()  # in a checkout a link to the folder configs at its root
USAGE_ERROR = 2  # the exit code of argparse
CLOSE = 0.75  # of 1, for `did you mean`
OWN_FLAGS = ("help", "print_config")  # of the parser itself
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
        hidden: how names begin of settings that are left out of the help.
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
    def settings(self) -> dict[str, Setting]:
        """By name."""
        own = [setting for place, prefix in self.parts.items() for setting in read_settings(place, prefix)]
        return {setting.name: setting for setting in (*self.extra, *own) if setting.name not in self.follows}

    @cached_property
    def sections(self) -> set[str]:
        return {above for name in self.settings for above in _upwards(name) if above != name}

    def knows(self, name: str) -> bool:
        """A setting, a section, or something below a setting, which may be an object: that is the parser's business."""
        above = [one for one in _upwards(name) if one in self.settings and one not in self.sections]
        return bool(above) or name in self.settings or name in self.sections

    def unknown(self, names: Iterable[str], dashes: str = "") -> Iterator[str]:
        """What is to be said of those that it does not have."""
        for name in names:
            if name in self.follows:
                yield f"{dashes}{name} follows {dashes}{self.follows[name]}; set that"
            elif not self.knows(name):
                yield f"{dashes}{name} is no setting{did_you_mean(name, self.settings, dashes)}"

    def load(self, file: str | Path) -> dict[str, Any]:
        """The values of a file by name; {} where it is no YAML mapping: the parser says so."""
        try:
            values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return dict(self._leaves(values)) if isinstance(values, dict) else {}

    def _leaves(self, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            is_section = isinstance(value, Mapping) and f"{prefix}{name}" in self.sections
            yield from self._leaves(value, f"{prefix}{name}.") if is_section else [(f"{prefix}{name}", value)]

    def help(self, files: Iterable[str | Path] = ()) -> str:
        """All settings in groups, with their defaults: those of `files`, the base file, and the classes."""
        width = min(128, max(72, shutil.get_terminal_size((100, 24)).columns))
        parser = argparse.ArgumentParser(
            usage=argparse.SUPPRESS,
            description=self.about.strip(),
            add_help=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=COLUMN, width=width),
        )
        defaults = {name: setting.default for name, setting in self.settings.items()}
        for file in (*([self.base] if self.base else []), *files):
            defaults |= self.load(file)
        groups: dict[str, Any] = {}
        for name, setting in self.settings.items():
            if not name.startswith(tuple(self.hidden) or "--"):
                title = name.partition(".")[0] if "." in name else "settings"
                group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
                about = setting.help
                if title == "trainer":  # Lightning's are long
                    about = re.split(r"(?<=[^.][^.\d])\. (?=[A-Z])", about)[0]
                group.add_argument(f"--{name}", metavar=_shown(defaults[name]), help=about.replace("%", "%%"))
        return parser.format_help()


def _upwards(name: str) -> list[str]:
    """a, a.b and a.b.c of a.b.c."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _shown(default: Any) -> str:
    """As it is written in YAML, in one line."""
    text = " ".join((default if isinstance(default, str) else json.dumps(default)).split())
    return text if len(text) <= LONGEST_DEFAULT else f"{text[: LONGEST_DEFAULT - 4]} ..."


def answer_at_once(command: Command, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Print the help and end, where it is asked for; end with an error where a flag, or a key of a file, is unknown.

    Returns:
        The files of --config, found as `find_config` does, and the other arguments.

    Raises:
        SystemExit: there is nothing else to do.
    """
    parser = Parser(prog=command.program, add_help=False)
    parser.add_argument("-c", "--config", type=find_config, action="append", default=[])
    parser.add_argument("-h", "--help", action="store_true")
    known, others = parser.parse_known_args(arguments)
    if known.help:
        try:
            print(command.help(known.config), end="", flush=True)
        except BrokenPipeError:  # `| head` has seen enough; nothing must be written at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    flags = [name.removesuffix("+") for name in flags_of(others)]
    problems = [*command.unknown((name for name in flags if name not in OWN_FLAGS and not name.endswith(".help")), "--")]
    problems += [f"{file}: {problem}" for file in known.config for problem in command.unknown(command.load(file))]
    if problems:
        refuse_usage("; ".join(problems), command.program)
    return known.config, others


def refuse_usage(message: str, program: str) -> NoReturn:
    """One line, and exit code 2."""
    print(f"error: {one_line(message)} ({program} --help lists the settings)", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def program(name: str) -> str:
    """How `train` or `eval` is called by whoever calls this command: from a checkout, or as an installed command."""
    return f"taro-{name}" if Path(sys.argv[0]).name.startswith("taro-") else f"python {name}.py"


def find_config(name: str) -> str:
    """The path of a config: a file, or one that comes along, by its path (configs/qwen25_7b.yaml) or name (qwen25_7b)."""
    inside = name.removeprefix("configs/")
    for path in (Path(name), CONFIGS / inside, CONFIGS / f"{inside}.yaml"):
        if path.is_file():
            return str(path)
    return name


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


def parse_settings(
    kind: type[Settings], command: Command, arguments: Sequence[str] | None, switches: Sequence[str] = ()
) -> Settings:
    """An instance of a dataclass of settings, from flags and the files of --config.

    Args:
        switches: settings that are true when their flag is there, and take no value.
    """
    from jsonargparse import ArgumentParser  # help and typos are answered without it

    from taro.ranges import range_problems

    class SettingsParser(OneLineErrors, ArgumentParser):
        pass

    files, others = answer_at_once(command, sys.argv[1:] if arguments is None else arguments)
    others = [f"{argument}=true" if argument[2:] in switches else argument for argument in others]
    parser = SettingsParser(prog=command.program)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind)
    parsed = vars(parser.instantiate(parser.parse_args([*(f"--config={file}" for file in files), *others])))
    settings = kind(**{name: value for name, value in parsed.items() if name != "config"})
    if problems := [*range_problems(settings)]:
        refuse_usage("; ".join(problems), command.program)
    return settings


def new_file(text: str) -> Path:
    """For `add_argument(type=...)`: a file that is written at the end, in a folder that is there from the start."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path}: {path.parent} is no folder that can be written to")
    return path


def at_least(least: int) -> Callable[[str], int]:
    """For `add_argument(type=...)`: whole numbers from `least` on."""

    def whole_number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text.strip()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least {least}")
        return int(text)

    return whole_number


class OneLineErrors:
    """For a parser of argparse or jsonargparse: no abbreviations of flags, and a mistake is one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def error(self, message: str, *cause: Exception | None) -> NoReturn:
        if not getattr(self, "exit_on_error", True):  # a parser inside another one
            super().error(message, *cause)
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            message += did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        refuse_usage(message, self.prog)


class Parser(OneLineErrors, argparse.ArgumentParser):
    """argparse's; a flag that it does not have is named before one that is missing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        spec = sys.modules["__main__"].__spec__
        if spec is not None and spec.name.startswith("taro."):
            kwargs = {"prog": f"python -m {spec.name.removesuffix('.__main__')}"} | kwargs
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        arguments = sys.argv[1:] if args is None else args
        for name in flags_of(arguments):
            if f"--{name}" not in self._option_string_actions:
                self.error(f"--{name} is no flag{did_you_mean(f'--{name}', self._option_string_actions)}")
        return super().parse_args(args, namespace)
