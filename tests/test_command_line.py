import subprocess
import sys
from pathlib import Path

import pytest

from taro.command_line import CONFIGS, Parser, answer_at_once, at_least, did_you_mean, find_config, new_file
from taro.prepare import difficulty
from taro.prepare.caption import __main__ as caption
from taro.prepare.commands import CAPTION, DIFFICULTY
from taro.run import eval as evaluation
from taro.run.cli import parse
from taro.run.commands import BASE_CONFIG, EVAL, TRAIN
from taro.run.memory_plan import main as plan_memory
from taro.run.trainer_checks import REFUSED

ROOT = CONFIGS.parent
COMMANDS = {"train": (TRAIN, parse), "eval": (EVAL, evaluation.parse), "caption": (CAPTION, caption.parse)}
COMMANDS["difficulty"] = DIFFICULTY, difficulty.parse


def mistake(capsys, call, *arguments):
    """The one line that a command says before it ends."""
    with pytest.raises(SystemExit) as leaving:
        call(list(arguments))
    assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said.removeprefix("error: ")


@pytest.fixture
def unchecked(arguments, monkeypatch):
    """The configuration as jsonargparse has it, from the classes themselves."""
    monkeypatch.setattr("taro.run.cli.list_problems", lambda config: [])
    return lambda *extra: parse([*arguments, *extra]).config


def test_the_sources_say_what_the_parser_says(unchecked):
    """What is read without an import is what the classes have: no setting is missing, none is too many; and their defaults, as
    far as base.yaml does not replace them."""
    optional = ["--model.lora={rank: 4}", "--data.frame_cache={folder: a}", "--model.feature_cache={folder: a}"]
    optional.append("--data.grounding.evaluation_video={fps: 2.0}")  # tiny.yaml has none
    config = unchecked(f"--config={BASE_CONFIG}", *optional)
    sections = TRAIN.sections | {"progress_bar.theme"}
    found = {name for name in config.as_flat().__dict__ if not name.startswith(("config", "__"))}
    assert TRAIN.settings.keys() - sections == found - sections - TRAIN.follows.keys()
    own = ("model.temporal_reward.", "model.loss.", "model.advantages.", "curriculum.")
    compared = {name: setting.default for name, setting in TRAIN.settings.items() if name.startswith(own)}
    assert len(compared) > 15 and compared == {name: config[name] for name in compared}


def test_help_needs_nothing_heavy():
    """For all commands; the parser alone takes seconds to import."""
    code = (
        "import sys; from taro.prepare.commands import *; from taro.run.commands import *\n"
        "for one in (TRAIN, EVAL, CAPTION, DIFFICULTY): one.help()\n"
        "print([name for name in ('torch', 'lightning', 'transformers', 'jsonargparse') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_of_training(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert "lambda" not in shown and "--model.group_size 8 " in shown
    assert "--data.seed" not in shown and "--trainer.limit_train_batches" not in shown
    assert "--trainer.max_epochs 3 " in shown  # as in base.yaml
    with pytest.raises(SystemExit):
        parse(["--config=tiny", "--help"])
    assert "--model.temporal_reward.radius 1.5 " in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_setting_has_a_help(name):
    command, _ = COMMANDS[name]
    shown = {name: setting for name, setting in command.settings.items() if not name.startswith(tuple(command.hidden) or "-")}
    assert not [name for name, setting in shown.items() if not setting.help]
    text = command.help()
    assert all(f"--{name}" in text for name in shown)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", ["--model.group_sze=4"], "--model.group_sze is no setting; did you mean --model.group_size? ("),
        ("train", ["--trainer.max_step", "2"], "--trainer.max_step is no setting; did you mean --trainer.max_steps? ("),
        ("train", ["--group_size=2"], "--group_size is no setting; did you mean --model.group_size? ("),
        ("train", ["--model.temporal_reward.radios=4"], "did you mean --model.temporal_reward.radius? ("),
        ("train", ["--nothing.like.it=4"], "--nothing.like.it is no setting (train.py --help lists"),
        ("train", ["--data.seed=4"], "--data.seed follows --seed_everything; set that ("),
        ("train", ["--model.group_size=many"], "model.group_size = many: must be a whole number, at least 2 ("),
        ("eval", ["--dataset=Synthetic", "--mode=m"], "--mode is no setting; did you mean --model? ("),
        ("eval", ["--grounding.video.max_frame=3"], "did you mean --grounding.video.max_frames? ("),
        ("eval", ["--engine=vlm", "--dataset=a", "--model=b"], "engine: vlm must be "),
        ("eval", ["--dataset=a", "--model=b", "--grounding.max_prompt_tokens=null"], "max_prompt_tokens: None must be a whole"),
        ("caption", ["--inptu=a"], "--inptu is no setting; did you mean --input? ("),
        ("difficulty", ["--out=a"], "--out is no setting"),
    ],
)
def test_a_mistake_is_one_line(capsys, command, arguments, message):
    assert message in mistake(capsys, COMMANDS[command][1], *arguments)


def test_unknown_keys_of_files(capsys, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("model:\n  group_sze: 1\ntrainer:\n  logger:\n    class_path: CSVLogger\n    init_args: {save_dir: a}\n")
    expected = f"{file}: model.group_sze is no setting; did you mean model.group_size? (train.py"
    assert mistake(capsys, parse, f"--config={file}").startswith(expected)
    assert mistake(capsys, parse, "-c", str(file)).startswith(expected)
    file.write_text("dataset: Synthetic\nmaxtokens: 4\n")
    assert "maxtokens is no setting; did you mean max_tokens?" in mistake(capsys, evaluation.parse, f"--config={file}")


def test_what_stands_below_an_object_is_the_parsers_business():
    known = ["trainer.logger.save_dir", "trainer.callbacks.init_args.interval", "model", "data.grounding.video.fps"]
    assert all(map(TRAIN.knows, known)) and not TRAIN.knows("model.x") and not TRAIN.knows("data.grounding.video.x")


def test_parsers_of_flags_alone(capsys):
    parser = Parser(prog="it")
    parser.add_argument("--source", choices=["charades", "tacos"], required=True)
    parser.add_argument("--input", required=True)
    arguments = ["--source=charadess", "--input=a"]
    said = mistake(capsys, parser.parse_args, "--sourc=tacos")
    assert said.startswith("--sourc is no flag; did you mean --source? (it --help")
    assert "did you mean charades?" in mistake(capsys, parser.parse_args, *arguments)
    assert "required: --input" in mistake(capsys, parser.parse_args, "--source=tacos")
    assert parser.parse_args(["--source=tacos", "--input=--sourc"]).input == "--sourc"


def test_the_memory_plan_knows_the_settings(capsys):
    said = mistake(capsys, plan_memory, "--config=tiny", "model.pack_token=8")
    assert said.startswith("--model.pack_token is no setting; did you mean --model.pack_tokens? (")


@pytest.mark.parametrize("name", ["qwen25_7b", "qwen25_7b.yaml", "configs/qwen25_7b.yaml"])
def test_configs_that_come_along_are_found_from_anywhere(tmp_path, monkeypatch, name):
    """And stand before all other flags."""
    monkeypatch.chdir(tmp_path)
    file = str(CONFIGS / "qwen25_7b.yaml")
    flags = ["--name", name, "--trainer.max_steps=-1"]
    assert answer_at_once(TRAIN, [*flags, "--config", name, f"--config={name}", "-c", name]) == ([file] * 3, flags)
    assert find_config("experiments/time_r1") == str(CONFIGS / "experiments" / "time_r1.yaml")
    Path("qwen25_7b.yaml").write_text("{}")
    assert find_config("qwen25_7b.yaml") == "qwen25_7b.yaml"  # one's own comes first
    assert find_config("nowhere.yaml") == "nowhere.yaml"


def test_did_you_mean():
    assert did_you_mean("model.lr", ["model.loss", "data.workers"]) == ""
    assert did_you_mean("worker", ["model.loss", "data.workers"], "--") == "; did you mean --data.workers?"


def test_settings_that_are_refused_exist():
    assert {f"trainer.{name}" for name in REFUSED} < TRAIN.settings.keys()


def test_defaults_are_shown_as_values():
    shown = EVAL.help()
    assert "--limit null" in shown and "--strict false" in shown and "--device auto" in shown
    assert "--vllm.gpu_memory_utilization 0.9" in shown


def test_numbers_and_new_files_are_checked_where_they_are_parsed(capsys, tmp_path):
    parser = Parser(prog="a command")
    parser.add_argument("--workers", type=at_least(1))
    parser.add_argument("--json", type=new_file)
    read = parser.parse_args(["--workers", "2", "--json", f"{tmp_path}/a.json"])
    assert (read.workers, read.json) == (2, tmp_path / "a.json")
    for wrong in ("0", "-3", "1.5", "two"):
        assert f"{wrong} must be a whole number, at least 1" in mistake(capsys, parser.parse_args, f"--workers={wrong}")
    assert "is a folder; give the name of a file" in mistake(capsys, parser.parse_args, f"--json={tmp_path}")
    assert "is no folder that can be written to" in mistake(capsys, parser.parse_args, f"--json={tmp_path}/gone/a.json")
