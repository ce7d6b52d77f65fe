"""What an installed TaRO has."""

import configparser
import importlib
import re
from functools import partial
from pathlib import Path

import pytest

from taro.command_line import CONFIGS
from taro.run import commands
from taro.run.folder import DISTRIBUTION
from taro.view.html import ASSETS

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
SCRIPTS = dict(line.split(" = ") for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines())


def test_configs_and_assets_are_part_of_the_package():
    package = ROOT / "taro"
    carried = {path.resolve() for pattern in SETUP["options.package_data"]["taro"].split() for path in package.glob(pattern)}
    assert carried == {*CONFIGS.rglob("*.yaml"), *ASSETS.iterdir()} and CONFIGS == ROOT / "configs"


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_command_calls_a_module_that_is_there(script, monkeypatch):
    module, _, function = SCRIPTS[script].partition(":")
    assert module == commands.__name__
    called = []
    monkeypatch.setattr(commands.runpy, "run_module", lambda module, **how: called.append(module))
    for name in ("train", "eval", "demo"):
        monkeypatch.setattr(f"taro.run.{name}.command", partial(called.append, f"taro.run.{name}"))
    monkeypatch.setattr("sys.argv", [script])
    getattr(commands, function)()
    assert len(called) == 1 and importlib.util.find_spec(called[0])


def test_each_module_that_the_readme_calls_has_a_command():
    texts = [path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))]
    named = {module for text in texts for module in re.findall(r"python -m (taro[\w.]+)", text)}
    source = Path(commands.__file__).read_text()
    assert named and all(f'"{module}"' in source for module in named)


def test_the_name_is_free_and_no_text_says_another():
    assert SETUP["metadata"]["name"] == DISTRIBUTION == "taro-vtg"
    files = [*ROOT.glob("taro/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    assert not [path for path in files if re.search(r"install '?taro\b(?!-vtg)", path.read_text())]
