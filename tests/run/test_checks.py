"""Every file in configs/ parses, and does what its first comment says."""

import json
import math
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from prepared_python import python
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taro.progress import Plan
from taro.run import train
from taro.run.checks import ConfigError, list_plan_problems
from taro.run.cli import BASE_CONFIG, CONFIGS, parse, resolved_config
from taro.run.commands import TRAIN
from taro.seeds import stable_seed
from taro.signatures import REQUIRED
from taro.synthetic.architecture import save_random
from taro.video.load import VideoSettings

pytestmark = pytest.mark.slow  # as a whole file: real runs

ROOT = CONFIGS.parent
WHOLE = [path for path in sorted(CONFIGS.glob("*.yaml")) if path.name not in (BASE_CONFIG.name, "datasets.yaml")]
WHOLE_ALONE = ("model.name_or_path", "model.rewards.")  # said again by who wants them: they replace those of the base
EXPERIMENTS = sorted((CONFIGS / "experiments").glob("*.yaml"))
PROMPTS = sorted((CONFIGS / "prompts").glob("*.yaml"))


@pytest.fixture
def local(tiny_folder, synthetic, monkeypatch):
    """In place of what is downloaded, made or installed first."""
    monkeypatch.setattr("taro.run.checks.vllm_is_installed", lambda: True)
    return [
        f"--model.name_or_path={tiny_folder}",
        f"--data.train_file={synthetic}/train.jsonl",
        f"--data.validation_file={synthetic}/validation.jsonl",
        "--data.test_file=null",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
    ]


def leaves(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def assert_in_force(cli, path):
    """What the file says is what the run gets, but for what `local` replaces."""
    given = yaml.safe_load(path.read_text())
    assert cli.config["model.rewards"] == given.get("model", {}).pop("rewards", cli.config["model.rewards"])  # one value
    for name, value in leaves(given):
        if not name.startswith(("model.name_or_path", "trainer.accelerator", "trainer.devices")) and "_file" not in name:
            assert cli.config[name] == value or str(cli.config[name]) == str(value), name


def test_there_are_configs():
    assert {path.stem for path in WHOLE} >= {"tiny", "qwen25_3b", "qwen25_7b", "qwen3_8b"}
    assert {path.stem for path in EXPERIMENTS} >= {"taro", "time_r1", "constructed_only", "temporal_reward_only"}


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_config_parses(path, local):
    cli = parse([f"--config={path}", *local])
    assert_in_force(cli, path)
    assert cli.config.name == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_launch_line_of_an_experiment(path, local, monkeypatch):
    (line,) = re.findall(r"^#   python train.py (.*)$", path.read_text(), flags=re.MULTILINE)
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line)
    assert str(path.relative_to(ROOT)) in arguments
    cli = parse([*arguments, *local])
    assert_in_force(cli, path)
    assert cli.config.name == path.stem


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_launch_line_of_a_prompt(path, local, monkeypatch):
    """Over the experiment of its name, of which nothing else is changed."""
    (line,) = re.findall(r"^#   python train.py (.*)$", path.read_text(), flags=re.MULTILINE)
    monkeypatch.chdir(ROOT)
    cli, experiment = parse([*shlex.split(line), *local]), CONFIGS / "experiments" / path.name
    assert_in_force(cli, path)
    assert cli.config["data.grounding.prompt"] == yaml.safe_load(path.read_text())["data"]["grounding"]["prompt"]
    assert_in_force(cli, experiment)
    assert cli.config.name == path.stem


def test_what_the_experiments_leave_out(local):
    def settings(name):
        cli = parse([f"--config={CONFIGS}/tiny.yaml", f"--config={CONFIGS}/experiments/{name}.yaml", *local])
        return cli.model.temporal_reward is not None, cli.config.curriculum.warmup_epochs

    assert settings("taro") == (True, 0.25)
    assert settings("time_r1") == (False, 0)
    assert settings("temporal_reward_only") == (True, 0)
    reward, warmup = settings("constructed_only")
    assert not reward and warmup > parse(local).trainer.max_epochs


def test_a_config_says_only_what_differs(local):
    """No file repeats what the base or a class says; what is laid over tiny.yaml may go back to it."""
    parser = parse(local).parser
    base, tiny = parser.parse_args([]), parser.parse_args([f"--config={CONFIGS}/tiny.yaml"])
    for path, below in [*((path, [base]) for path in WHOLE), *((path, [base, tiny]) for path in EXPERIMENTS + PROMPTS)]:
        for name, value in leaves(yaml.safe_load(path.read_text())):
            assert any(one.get(name, ...) != value for one in below) or name.startswith(WHOLE_ALONE), f"{path.name}: {name}"


def test_published_values_are_the_defaults_of_the_classes():
    """So that someone who uses the classes gets what the base says."""
    defaults = {name: setting.default for name, setting in TRAIN.settings.items()}
    base = yaml.safe_load(BASE_CONFIG.read_text())
    base = {name: base[name] for name in ("model", "data", "curriculum")}
    pinned = {"model.rewards": base["model"].pop("rewards"), **dict(leaves(base))}  # rewards are one value
    required = {name for name in pinned if defaults[name] == REQUIRED}
    assert required == {"model.name_or_path", "data.train_file", "data.validation_file"}
    for name in pinned.keys() - required:
        assert defaults[name] == pinned[name], name


def test_published_values(local):
    cli = parse([f"--config={CONFIGS}/qwen25_7b.yaml", *local])
    model, data = cli.model, cli.datamodule
    assert (model.group_size, data.prompts_per_step, model.sampling.temperature) == (8, 16, 1.0)
    assert (model.loss.clip_low, model.loss.clip_high, model.loss.dual_clip) == (0.2, 0.2, 3.0)
    assert (model.loss.log_ratio_bound, model.loss.kl_coefficient, model.loss.updates) == (20.0, 0.01, 1)
    settings = model.optimizer_settings
    assert (settings.learning_rate, settings.weight_decay, settings.clip_norm) == (1e-6, 0.01, 1.0)
    reward = model.temporal_reward
    assert (reward.bonus, reward.iou_gate, reward.radius, reward.tokens) == (0.3, 0.7, 3.0, "response")
    assert data.grounding.video == VideoSettings(fps=2.0, max_frames=768, max_tokens=3584, min_tokens_per_frame=4)
    assert data.grounding.evaluation_video == VideoSettings(2.0, max_frames=1024, max_tokens=4096, min_tokens_per_frame=4)
    assert cli.trainer.max_epochs == 3 and model.gradient_checkpointing


@pytest.fixture
def shortened(synthetic, tmp_path):
    """Arguments of two steps of a config as it is, bf16-mixed too, on a model of its family that a CPU trains in seconds, with
    metrics before and after."""

    def make(config, family):
        return [
            f"--config={CONFIGS}/{config}.yaml",
            f"--model.name_or_path={save_random(tmp_path / family, family, layers=2)}",
            f"--output_dir={tmp_path}",
            f"--data.train_file={synthetic}/train.jsonl",
            f"--data.validation_file={synthetic}/validation.jsonl",
            f"--data.test_file={synthetic}/test.jsonl",
            "--trainer.accelerator=cpu",
            "--model.engine=native",
            "--trainer.max_steps=2",
            "--data.prompts_per_step=2",
            "--model.group_size=2",
            "--model.sampling.max_tokens=64",
            "--model.evaluation_max_tokens=4",
            "--data.grounding.video.max_tokens=64",
            "--data.grounding.evaluation_video.max_tokens=64",
            "--data.workers=0",
        ]

    return make


def assert_trained(folder):
    """Two steps with a gradient, from a policy that is its reference, and metrics of two evaluations."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["before"]["samples"] == summary["after"]["samples"] > 0
    assert (folder / "hf" / "model.safetensors").exists()
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = {name: [event.value for event in events.Scalars(name)] for name in ("kl", "loss", "grad_norm")}
    assert all(len(values) == 2 and all(map(math.isfinite, values)) for values in logged.values())
    assert logged["kl"][0] < 1e-3 and logged["grad_norm"][0] > 0.1 and logged["grad_norm"][1] > 0


@pytest.mark.parametrize(
    ("config", "family"), [("qwen3_8b", "qwen3_vl"), ("qwen35_9b", "qwen3_5"), ("qwen25_3b_lora", "qwen2_5_vl")]
)
def test_a_shipped_config_trains_a_tiny_model(config, family, shortened, tmp_path, monkeypatch):
    # A random model earns nothing.
    monkeypatch.setattr("taro.rl.rewards.parts.format_reward", lambda text: stable_seed(text) % 5 / 4)
    train.main([*shortened(config, family), "--trainer.devices=1"])
    assert_trained(tmp_path / config)


AS_ON_GPUS = """
import sys
from types import SimpleNamespace
from lightning.pytorch.loops import utilities
import taro.rl.rewards.parts
from taro.run import train
from taro.seeds import stable_seed

taro.rl.rewards.parts.format_reward = lambda text: stable_seed(text) % 5 / 4

# Lightning evaluates in inference mode unless the backend is exactly gloo, and that of GPUs is not.
utilities.dist = SimpleNamespace(get_backend=lambda: "cpu:gloo,cuda:nccl")
train.main(sys.argv[1:])
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_a_shipped_config_trains_a_tiny_model_on_two_ranks(shortened, tmp_path, rank_environment):
    (tmp_path / "run.py").write_text(AS_ON_GPUS)
    command = [python(), str(tmp_path / "run.py"), *shortened("qwen25_7b", "qwen2_5_vl"), "--trainer.devices=2"]
    done = subprocess.run(command, env=rank_environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_trained(tmp_path / "qwen25_7b")


def test_one_default_of_each_setting(local, tmp_path):
    """An empty config on top changes nothing: base.yaml is always under it."""
    (tmp_path / "empty.yaml").write_text("name: run\n")
    cli = parse([f"--config={tmp_path}/empty.yaml", *local])
    assert_in_force(cli, BASE_CONFIG)
    assert "Qwen2.5-VL-7B" in Path(BASE_CONFIG).read_text() and cli.config.name == "run"
    assert resolved_config(cli).count("\n") > 80


def test_rewards_are_chosen_before_anything_is_loaded(arguments, tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text("def short(completion):\n    return 1.0\n")
    (tmp_path / "own.yaml").write_text("model: {rewards: {museg: {form: released, weight: 0.5}, own_rewards.short: 2}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def chosen(*extra):
        return [(one.name, one.weight) for one in parse([*arguments, *extra]).model.rewards.chosen]

    assert chosen() == [("format", 1.0), ("timestamp_iou", 1.0)]
    assert chosen("--config=own.yaml", "--model.rewards.iou=3") == [("museg", 0.5), ("own_rewards.short", 2.0), ("iou", 3.0)]
    assert chosen("--model.rewards={tempr1: 1}", "--model.rewards.own_rewards:short=1")[1] == ("own_rewards:short", 1.0)
    with pytest.raises(ConfigError, match=r"no reward 'temp1'; did you mean tempr1\?(.|\n)*form = 'paper': allowed are"):
        parse([*arguments, "--model.rewards={temp1: 1, museg: {form: paper}}"])
    with pytest.raises(ConfigError, match=r"model.rewards: reward vital can't be .*low must be below high, got 0.9 and 0.8"):
        parse([*arguments, "--model.rewards={vital: {low: 0.9}}"])
    with pytest.raises(ConfigError, match=r"model.rewards = {}, model.temporal_reward = null: nothing is rewarded"):
        parse([*arguments, "--model.rewards={}", "--model.temporal_reward=null"])
    with pytest.raises(ConfigError, match=r"model.rewards with weights of 0 alone, model.temporal_reward with a bonus"):
        parse([*arguments, "--model.rewards={iou: 0, museg: {weight: 0}}", "--model.temporal_reward.bonus=0"])
    assert not chosen("--model.rewards={}")


def test_rewards_of_tasks_are_checked_before_a_model_is_loaded(arguments):
    given = parse([*arguments, "--model.task_rewards={grounded_qa: {iou: 1, answer: 0.5}}", "--data.task_weights={dense: 1}"])
    assert [one.name for one in given.model.rewards.by_task["grounded_qa"]] == ["iou", "answer"]
    assert given.datamodule.task_weights == {"dense": 1.0}
    with pytest.raises(ConfigError, match=r"model.task_rewards.dens: there is no task 'dens'; did you mean dense\?; there are"):
        parse([*arguments, "--model.task_rewards={dens: {iou: 1}}"])
    with pytest.raises(ConfigError, match=r"model.task_rewards.dense: there is no reward 'iuo'"):
        parse([*arguments, "--model.task_rewards={dense: {iuo: 1}}"])
    with pytest.raises(ConfigError, match=r"data.grounding.instructions: there is no task 'dens'; did you mean dense\?"):
        parse([*arguments, "--data.grounding.instructions={dens: Write it.}"])
    with pytest.raises(ConfigError, match=r"model.task_rewards.dense = {}, model.temporal_reward = null"):
        parse([*arguments, "--model.task_rewards={dense: {}}", "--model.temporal_reward=null"])


def test_what_needs_all_rewards_before_any_pass(arguments):
    extra = ["--model.advantages.scale=ema", "--model.dynamic_sampling=1", "--model.advantages.decay=1"]
    extra.append("--model.task_rewards={actions: {t_grpo: 1}}")
    with pytest.raises(ConfigError) as error:
        parse([*arguments, *extra])
    lines = str(error.value).splitlines()[1:]
    scale, sampling = "model.advantages.scale = ema needs", "model.dynamic_sampling = 1 needs"
    starts = (scale, sampling, "model.advantages.decay = 1", "curriculum.warmup_epochs = 1", "model.shuffled_rollouts = 0")
    assert len(lines) == 5 and all(line.startswith(f"- {start}") for line, start in zip(lines, starts, strict=True))
    parse([*arguments, *extra[:2], "--model.temporal_reward=null"])


def test_rollouts_ahead(arguments, monkeypatch):
    extra = ["--model.rollouts_ahead=1", "--model.loss.importance_cap=null", "--model.temporal_reward=null"]
    with pytest.raises(ConfigError) as error:
        parse([*arguments, *extra, "--model.dynamic_sampling=1"])
    lines = str(error.value).splitlines()[1:]
    starts = ("engine = native: it works", "dynamic_sampling = 1: ", "loss.importance_cap = null: ")
    starts = [f"- model.rollouts_ahead = 1 with model.{start}" for start in starts]
    assert len(lines) == 3 and all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    monkeypatch.setattr("taro.run.checks.vllm_is_installed", lambda: True)
    server = ["--model.engine=vllm_server", "--model.vllm_server.weights=folder", "--model.vllm_server.folder=there"]
    parse([*arguments, "--model.rollouts_ahead=1", *server])
    with pytest.raises(ConfigError, match=r"model.rollouts_ahead = 1 with model.engine = vllm: "):
        parse([*arguments, "--model.rollouts_ahead=1", "--model.engine=vllm"])


def test_the_best_step_may_be_that_of_a_task(arguments):
    config = parse([*arguments, "--checkpoint.monitor=vtg/actions/mF1"]).config
    plan = Plan(10, 1, -1)
    assert list_plan_problems(config, plan, ["grounding", "actions"]) == []
    [problem] = list_plan_problems(config, plan)
    assert problem == "checkpoint.monitor = vtg/actions/mF1: no validation sample is of this task; a validation has vtg/NAME"
    [problem] = list_plan_problems(config, plan, ["grounding", "dense", "dense"])
    assert problem.endswith("a validation has vtg/NAME, vtg/grounding/NAME, vtg/dense/NAME")
    with pytest.raises(ConfigError, match=r"checkpoint.monitor = vtg/actions/IoP: a validation has vtg/mIoU.*vtg/TASK/NAME"):
        parse([*arguments, "--checkpoint.monitor=vtg/actions/IoP"])
