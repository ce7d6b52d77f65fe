"""The house: rooms of `taro/` from top to bottom, and imports that point down only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "taro"
ROOMS = ("run", "view", "prepare", "synthetic", "rl", "evaluation", "data", "rollout", "tasks", "models", "video")
BOTTOM = len(ROOMS)  # modules beside the rooms: any room may import them, and they import no room


def floor(parts):
    """Of a module by the parts of its name below `taro`."""
    return ROOMS.index(parts[0]) if parts[0] in ROOMS else BOTTOM


def imports(tree):
    """Lines and names of modules in it, anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def upward(path, text):
    here = floor(path.relative_to(PACKAGE).with_suffix("").parts)
    for line, name in imports(ast.parse(text)):
        root, _, below = name.partition(".")
        if root == "taro" and below and floor(below.split(".")) < here:
            yield f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_imports_point_down():
    assert [line for path in FILES for line in upward(path, path.read_text())] == []


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("video/load.py", "from taro.models.packing import pack_group"),
        ("models/prompt.py", "def late():\n    import taro.rollout.engine"),
        ("spans.py", "from taro.video.load import Video"),
    ],
)
def test_an_import_that_points_up_is_named(place, text):
    (line,) = upward(PACKAGE / place, text)
    assert line.startswith(f"taro/{place}:{1 + text.count(chr(10))} imports taro.")


def test_relative_imports_are_not_used():
    """They would escape the test above."""
    trees = ((path, ast.parse(path.read_text())) for path in FILES)
    assert not [path for path, tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]


def test_tests_mirror_the_rooms():
    folders = {path.name for path in (PACKAGE.parent / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"faults", "with_vllm"} <= {path.name for path in PACKAGE.iterdir() if path.is_dir()}
