"""What README.md and docs/rewards.md say of a reward of one's own, done in an empty folder."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from taro.rl.rewards.__main__ import main
from taro.rl.rewards.choose import Rewards

ROOT = Path(__file__).parents[3]
README, GUIDE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "rewards.md").read_text()
OWN = GUIDE.partition("## One of your own")[2]
(CODE,) = re.findall(r"`my_rewards\.py`:\n\n```python\n(.*?)```", OWN, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the file that the guide shows, and nothing else."""
    (tmp_path / "my_rewards.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [place for place in sys.path if place not in ("", str(ROOT))] + [str(ROOT)])
    yield tmp_path
    sys.modules.pop("my_rewards", None)


def paid(capsys, name, text):
    main(["explain", "--truth", "2", "6", "--text", text, "--rewards", name])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if name in line]
    return float(row.split("│")[3])


def test_the_function_of_the_guide_pays(folder, capsys):
    """By both of its names: that of configs, and that which can be a part of a flag."""
    for name in ("my_rewards.short", "my_rewards:short"):
        assert paid(capsys, name, "short") == 1.0 and paid(capsys, name, "long " * 100) == 0.0


def test_what_the_guide_writes_into_a_config_is_a_reward(folder, complete):
    name, weight = re.search(r"its import path in a config, `([\w.]+): ([\d.]+)`", OWN).groups()
    values, weights = Rewards({name: float(weight)})([complete("short"), complete("long " * 100)])
    assert values == {name: [1.0, 0.0]} and weights == {name: float(weight)}


def test_flags_name_the_same_function(folder, complete):
    flags = [flag for text in (README, OWN) for flag in re.findall(r"--model\.rewards\.(my_rewards\S+)\s+([\d.]+)`", text)]
    assert len(flags) == 2 and "def short(completion)" in README and "def short(completion)" in CODE
    for name, weight in flags:
        assert Rewards({name: float(weight)})([complete("short")]) == ({name: [1.0]}, {name: float(weight)})


def test_commands_of_the_guide_run(folder, capsys):
    lines = re.findall(r"^python -m taro\.rl\.rewards (.*)$", GUIDE, re.MULTILINE)
    assert lines
    for line in lines:
        main(shlex.split(line))
        shown = capsys.readouterr().out
        assert shown.startswith("truth: ") and all(name in shown for name in line.partition("--rewards ")[2].split())
