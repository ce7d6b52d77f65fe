"""Every command of the README and the guides exists, with the flags that are shown, and those that train and evaluate pass
every check that is made before a model is loaded. What they do is tested elsewhere."""

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
from prepared_python import python

from taro.evaluation.settings import resolve
from taro.prepare.caption.__main__ import parse as parse_caption
from taro.prepare.difficulty import parse as parse_difficulty
from taro.run import eval as evaluation
from taro.run import memory_plan
from taro.run.cli import parse

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = Path(__file__).parents[1]
GUIDES = ("training", "scaling", "rollouts", "evaluation", "data", "view")
TEXTS = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in GUIDES))]
BLOCKS = [block for text in TEXTS for block in re.findall(r"```\n(.*?)```", text, re.DOTALL)]
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = sorted({line for line in LINES if line.startswith(("python ", "make "))})


def arguments_of(program):
    """Of each command that runs it, by torchrun and srun too; optional ones (in brackets) are given."""
    found = {match[1] for line in LINES if (match := re.search(rf"{re.escape(program)}(?![\w.])(.*)", line))}
    return sorted(line.replace("[", "").replace("]", "").strip() for line in found if "--help" not in line)


@cache
def help_of(program):
    done = subprocess.run([python(), *program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_starts_with_its_two_commands():
    assert COMMANDS
    assert [line for line in LINES if line][:2] == ["make train", "make test"]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets(command):
    done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def equipped(monkeypatch):
    """All packages and a GPU are there."""
    monkeypatch.chdir(ROOT)
    for place in ("taro.run.checks.vllm_is_installed", "taro.rollout.start.vllm_is_installed"):
        monkeypatch.setattr(place, lambda: True)
    monkeypatch.setattr("taro.run.checks.peft_is_installed", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)


@pytest.mark.parametrize("line", arguments_of("train.py"), ids=lambda line: line or "(none)")
def test_training_commands_pass_all_checks(line, equipped, synthetic, tiny_folder, tmp_path):
    """With a model and samples in place of those that are downloaded or made first, and a checkpoint to go on from."""
    (tmp_path / "tiny" / "checkpoints").mkdir(parents=True)
    (tmp_path / "tiny" / "checkpoints" / "step_000001.ckpt").touch()
    local = [
        f"--output_dir={tmp_path}",
        f"--model.name_or_path={tiny_folder}",
        *(f"--data.{split}_file={synthetic}/{split}.jsonl" for split in ("train", "validation", "test")),
    ]
    cli = parse([*shlex.split(line), *local])
    assert cli.folder.parent == tmp_path and cli.model.name_or_path == tiny_folder


@pytest.mark.parametrize("line", arguments_of("eval.py"))
def test_evaluation_commands_pass_all_checks(line, equipped, synthetic):
    annotations = f"--annotations={synthetic}/test.jsonl"
    settings = evaluation.parse([*shlex.split(line.replace("--limit N", "--limit 2")), annotations])
    assert resolve(settings).name == (settings.dataset or "test")


@pytest.mark.parametrize("line", arguments_of("taro.run.memory_plan"))
def test_memory_plans_are_made(line, equipped):
    name = re.search(r"configs/qwen25_(\w+)\.yaml", line)[1]
    result = memory_plan.main([*shlex.split(line), f"--shape=assets/shapes/qwen2.5-vl-{name}"])
    assert all(sum(parts.values()) < (40 if "gigabytes 40" in line else 80) for parts in result.values())


@pytest.mark.parametrize("line", arguments_of("taro.prepare.caption"))
def test_caption_commands_parse(line):
    assert parse_caption(shlex.split(line)).output


@pytest.mark.parametrize("line", [line for line in arguments_of("taro.prepare.difficulty") if not line.startswith("select")])
def test_difficulty_commands_parse(line):
    assert parse_difficulty(shlex.split(line)).output


CHECKED = tuple(f"python {name}" for name in ("train.py", "eval.py", "-m taro.run.memory_plan", "-m taro.prepare.caption"))


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if line.startswith("python ") and not line.startswith(CHECKED)]
)
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


def test_the_readme_is_a_page_and_its_links_lead_somewhere():
    text = TEXTS[0]
    assert text.count("\n") <= 120
    for path in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(taro/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
