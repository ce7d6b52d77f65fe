"""Every command of the README and the guides exists, with the flags that are shown. What they do is tested elsewhere."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = [(ROOT / name).read_text() for name in ("README.md", "docs/data.md", "docs/scaling.md")]
BLOCKS = [block for text in TEXTS for block in re.findall(r"```\n(.*?)```", text, re.DOTALL)]
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = sorted({line for line in LINES if line.startswith(("python ", "make "))})


@cache
def help_of(program):
    done = subprocess.run([sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_starts_with_its_two_commands():
    assert COMMANDS
    assert [line for line in LINES if line][:2] == ["make train", "make test"]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets(command):
    done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python ")])
def test_python_commands(command):
    words = command.split()[1:]
    program = tuple(words[:2]) if words[0] == "-m" else (words[0],)
    if words[len(program) : len(program) + 1] == ["select"]:
        program = (*program, "select")
    shown = help_of(program)
    for flag in re.findall(r"--[\w.]+", " ".join(words[len(program) :])):
        assert flag == "--help" or re.search(rf"(?<![\w.-]){re.escape(flag)}(?![\w.])", shown), f"{flag} of: {command}"
    for path in re.findall(r"(?:configs|assets)/[\w./-]+", command):
        assert (ROOT / path).exists(), path
