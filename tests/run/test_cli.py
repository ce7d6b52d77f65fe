import re
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest

from taro.data.samples import SampleError
from taro.data.traces import TraceError
from taro.models.compiled import CompilerError
from taro.rl.module import GRPOModule
from taro.rl.sft import SFTModule
from taro.run import train
from taro.run.checks import ConfigError, count_devices, list_problems
from taro.run.cli import DEFAULT_CONFIG, SettingsAlone, find_stage, parse, resolved_config

pytestmark = pytest.mark.slow  # as a whole file: each builds the whole command line


@pytest.fixture
def no_weights(monkeypatch):
    """A user hears of a mistake before any weights are read."""

    def never(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("taro.models.qwen_vl.AutoModelForImageTextToText.from_pretrained", never)
    monkeypatch.setattr("taro.models.qwen_vl.QwenVL.from_pretrained", never)
    monkeypatch.setattr(L.Trainer, "test", never)
    monkeypatch.setattr(L.Trainer, "fit", never)


def test_what_no_weights_forbids(no_weights, arguments):
    with pytest.raises(AssertionError, match="weights were loaded"):
        train.main(arguments)


def test_every_setting_reaches_its_place(arguments, tmp_path):
    extra = [
        "--model.sampling.temperature=0.7", "--model.temporal_reward.tokens=think", "--model.temporal_reward.threshold=0.25",
        "--model.advantages.constructed=raft", "--model.loss.updates=2", "--model.optimizer.weight_decay=0.5",
        "--curriculum.schedule=linear", "--data.bad_rows=drop", "--seed_everything=7", "--trainer.max_steps=9",
    ]  # fmt: skip
    cli = parse([*arguments, *extra])
    assert cli.model.sampling.temperature == 0.7 and cli.model.sampling.max_tokens == 96
    assert cli.model.temporal_reward.tokens == "think" and cli.model.temporal_reward.threshold == 0.25
    assert cli.model.advantages.constructed == "raft" and cli.model.loss.updates == 2
    assert cli.model.optimizer_settings.weight_decay == 0.5
    assert cli.datamodule.bad_rows == "drop" and cli.trainer.max_steps == 9
    (curriculum,) = [c for c in cli.trainer.callbacks if type(c).__name__ == "CurriculumCallback"]
    assert curriculum.schedule == "linear"
    # what follows other settings
    assert cli.datamodule.name_or_path == cli.model.name_or_path
    assert cli.datamodule.group_size == cli.model.group_size == 3
    assert cli.datamodule.seed == 7
    assert cli.trainer.checkpoint_callback.folder == tmp_path / "run" / "checkpoints"
    assert cli.folder == tmp_path / "run" and cli.checkpoint is None


def test_without_config_it_is_the_tiny_run(arguments):
    assert resolved_config(parse(arguments)) == resolved_config(parse(["--config", str(DEFAULT_CONFIG), *arguments]))
    assert parse(arguments).model.temporal_reward.tokens == "timestamps"  # as in tiny.yaml alone


def test_the_stage_is_that_of_the_flag_or_else_of_the_last_file(tmp_path):
    """A file that says nothing changes nothing."""
    sft, grpo, other = (str(tmp_path / name) for name in ("sft.yaml", "grpo.yaml", "other.yaml"))
    for path, text in ((sft, "stage: sft"), (grpo, "stage: grpo"), (other, "name: run")):
        Path(path).write_text(text)
    assert find_stage([], []) is find_stage([sft, grpo], []) is find_stage([sft], ["--stage=grpo"]) is GRPOModule
    assert find_stage([grpo, sft, other], []) is find_stage([], ["--name=a", "--stage", "sft"]) is SFTModule


def test_samples_without_traces_are_told_before_any_weights_are_read(arguments, no_weights):
    with pytest.raises(TraceError, match=r"train.jsonl: 6 of 6 samples have no traces for stage = sft:"):
        train.main([*arguments, "--stage=sft"])


def test_print_config(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse([*arguments, "--print_config"])
    assert leaving.value.code in (0, None)
    shown = capsys.readouterr().out
    assert "group_size" in shown and "warmup_epochs" in shown


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ("--model.temporal_reward.tokens=all", "model.temporal_reward"),
        ("--data.bad_rows=ignore", "data.bad_rows"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
        ("--stage=warm", "stage"),
        ("--model.group_size=1", "model.group_size = 1: must be a whole number, at least 2 ("),
        ("--data.workers=1.5", "data.workers = 1.5: must be a whole number, at least 0 ("),
        ("--model.loss.kl_coefficient=-1", "model.loss.kl_coefficient = -1: must be a number, at least 0 ("),
        ("--model.temporal_reward={radius: 0}", "model.temporal_reward.radius = 0: must be a number above 0 ("),
        ("--model.lora={rank: 0}", "model.lora.rank = 0: must be a whole number, at least 1 ("),
        ("--model.vllm.gpu_memory_utilization=1.5", "gpu_memory_utilization = 1.5: must be a share, above 0 and at most 1 ("),
        ("--data.frame_cache={folder: ., max_gigabytes: 0}", "data.frame_cache.max_gigabytes = 0: must be a number above 0 ("),
        ("--checkpoint.every_n_steps=0", "checkpoint.every_n_steps = 0: must be a whole number, at least 1 ("),
    ],
)
def test_a_wrong_value_is_one_line(arguments, no_weights, capsys, mistake, named):
    with pytest.raises(SystemExit) as leaving:
        train.main([*arguments, mistake])
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and named in line


def test_a_wrong_value_in_a_file(arguments, no_weights, capsys, tmp_path):
    (tmp_path / "own.yaml").write_text("model: {temporal_reward: {radius: -1.0}}\n")
    with pytest.raises(SystemExit):
        train.main([*arguments, f"--config={tmp_path}/own.yaml"])
    assert "error: model.temporal_reward.radius = -1.0: must be a number above 0" in capsys.readouterr().err


MISTAKES = [
    ("--model.engine=vllm", "model.engine = vllm: vLLM is not installed; pip install -e '.[vllm]', or set native"),
    ("--model.sampling.repetition_penalty=1.05", "model.sampling.repetition_penalty: samples of the training must be"),
    ("--model.feature_cache={folder: /dev/null/a}", "model.feature_cache.folder = /dev/null/a: no folder that can be made"),
    ("--model.sampling.temperature=0", "model.sampling.temperature = 0.0: must be above 0"),
    ("--model.dtype=float8", "model.dtype: dtype 'float8', allowed: float32, bfloat16, float16"),
    ("--model.attention=eager", "model.attention = eager: allowed are shared_prefix, flex, sdpa"),
    ("--data.grounding.max_prompt_tokens=60", "leaves no room beside data.grounding.video.max_tokens = 64"),
    ("--data.grounding.video.min_frames=900", "data.grounding.video: max_frames=64 must be at least 2, and at least min_"),
    ("--trainer.precision=16-mixed", "trainer.precision = 16-mixed: allowed are 32-true, bf16-mixed"),
    ("--trainer.accumulate_grad_batches=2", "set data.prompts_per_step instead"),
    ("--trainer.gradient_clip_val=1", "set model.optimizer.clip_norm"),
    ("--trainer.strategy=fsdp", "trainer.strategy = fsdp: allowed are auto, ddp, fsdp2"),
    ("--trainer.devices=4", "data.prompts_per_step = 2 can't be shared by 4 ranks"),
    ("--data.grounding.prompt=Find it!", "data.grounding.prompt: the prompt template must contain"),
    ("--data.train_file=a/b.jsonl", "data.train_file = a/b.jsonl: no such file"),
    ("--data.validation_file=a/c.jsonl", "data.validation_file = a/c.jsonl: no such file"),
    ("--data.test_file=a/d.jsonl", "data.test_file = a/d.jsonl: no such file"),
    ("--ckpt_path=a/e.ckpt", "ckpt_path = a/e.ckpt: there is no such checkpoint"),
    ("--seed_everything=-1", "seed_everything = -1: must be from 0 to 4294967295"),
    ("--trainer.val_check_interval=0.5", "trainer.val_check_interval = 0.5: counts training steps, a whole number from 1"),
    ("--trainer.enable_checkpointing=false", "trainer.enable_checkpointing = false: what is exported comes from checkpoints"),
    ("--checkpoint.monitor=mIoU", "checkpoint.monitor = mIoU: a validation has vtg/mIoU, vtg/R1@0.3"),
]


# Those that say another thing of a setting that is in MISTAKES already, or are seen without others alone.
ALONE = [
    ("--model.rollout_rows=2", "model.rollout_rows = 2 is below model.group_size = 3"),
    ("--model.attention=flex", "model.attention = flex: FlexAttention has no backward pass on a CPU"),
    ("--model.optimizer.warmup_steps=6", "model.optimizer.warmup_steps = 6: the run has 6 steps and would not get beyond"),
    ("--trainer.devices=[0,1,2]", "data.prompts_per_step = 2 can't be shared by 3 ranks"),
    ("--trainer.num_nodes=3", "data.prompts_per_step = 2 can't be shared by 3 ranks"),
    ("--ckpt_path=last", "ckpt_path = last: there is no checkpoint in"),
    ("--trainer.accelerator=gpu", "trainer.accelerator = gpu: PyTorch sees no GPU here; set cpu, or auto"),
]


def problems_of(arguments):
    with pytest.raises(ConfigError) as error:
        train.main(arguments)
    head, *problems = str(error.value).splitlines()
    assert head == "the configuration can't work:"
    return problems


@pytest.mark.parametrize(("mistake", "message"), ALONE)
def test_a_contradiction_is_named(arguments, no_weights, monkeypatch, mistake, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (problem,) = problems_of([*arguments, mistake])
    assert message in problem


def test_all_contradictions_at_once(arguments, no_weights):
    problems = problems_of([*arguments, *(mistake for mistake, _ in MISTAKES)])
    assert len(problems) == len(MISTAKES)
    for _, message in MISTAKES:
        assert sum(message in problem for problem in problems) == 1


def test_what_cant_be_compiled_is_refused(arguments, no_weights, monkeypatch):
    def fail(device):
        raise CompilerError(f"torch.compile does not work on {device} here (no compiler)")

    monkeypatch.setattr("taro.run.checks.require_compiler", fail)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    problems = problems_of([*arguments, "--model.torch_compile=true", "--model.attention=sdpa"])
    assert problems == [
        "- model.torch_compile with model.attention = sdpa: set shared_prefix or flex, or leave it out",
        "- model.torch_compile: torch.compile does not work on cpu here (no compiler); set it to false",
    ]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    problems = problems_of([*arguments, "--trainer.accelerator=auto", "--model.attention=flex"])
    refused = "- model.attention = flex: torch.compile does not work on cuda here (no compiler); set it to shared_prefix"
    assert refused in problems


def test_a_number_of_a_section_that_may_be_left_out_is_no_null(no_weights):
    with pytest.raises(ConfigError, match=r"evaluation_video\.max_frames: None must be a whole number, at least 1"):
        train.main(["--config=configs/tiny.yaml", "--data.grounding.evaluation_video={max_frames: null}"])


def test_a_decay_needs_an_end(arguments, no_weights):
    endless = [*arguments, "--model.optimizer.schedule=linear", "--trainer.max_epochs=-1", "--trainer.max_steps=-1"]
    with pytest.raises(ConfigError, match=r"schedule = linear: the run has no end to decay to; set trainer.max_epochs or"):
        train.main(endless)
    parse([*endless, "--trainer.max_steps=4"])
    parse([*arguments, "--trainer.max_epochs=-1"])


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_is_no_path(arguments, no_weights, name):
    with pytest.raises(ConfigError, match="the run's folder in output_dir is called so; give one name without a path"):
        train.main([*arguments, f"--name={name}"])


def test_a_folder_that_is_no_run_s_is_left_alone(arguments, no_weights, tmp_path):
    file = tmp_path / "run" / "config.yaml"  # as an evaluation has one, too
    file.parent.mkdir()
    file.touch()
    with pytest.raises(ConfigError, match="run is there and holds no run; give another name, or another output_dir"):
        train.main(arguments)
    with pytest.raises(ConfigError, match=r"config.yaml is there and is no folder"):
        train.main([*arguments, f"--output_dir={tmp_path}/run", "--name=config.yaml"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_output_folder_that_can_not_be_written_to(arguments, no_weights):
    with pytest.raises(ConfigError, match=r"output_dir = /proc/outputs: can't be written to \("):
        train.main([*arguments, "--output_dir=/proc/outputs"])


def test_a_group_may_be_larger_than_a_pack(arguments, caplog):
    """It is said before the run, with what it comes from."""
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        parse([*arguments, "--model.pack_tokens=1312"])
        assert "pack_tokens" not in caplog.text
        parse([*arguments, "--model.pack_tokens=1311"])
    assert "note: a group may have up to 1312 tokens (data.grounding.max_prompt_tokens + model.group_size" in caplog.text
    assert "more than model.pack_tokens = 1311: it has a pass of its own" in caplog.text


def test_what_vllm_can_not_do(arguments, no_weights, monkeypatch):
    monkeypatch.setattr("taro.run.checks.vllm_is_installed", lambda: True)
    with pytest.raises(ConfigError, match="max_model_len = 1119 is less than the longest prompt and completion, 1120 tokens"):
        train.main([*arguments, "--model.engine=vllm", "--model.vllm.max_model_len=1119"])
    with pytest.raises(ConfigError, match=r"weights = folder: name model\.vllm_server\.folder"):
        train.main([*arguments, "--model.engine=vllm_server", "--model.vllm_server.weights=folder"])
    with pytest.raises(ConfigError, match=r"trainer.devices = \[1\]: vLLM takes the first GPUs it sees"):
        train.main([*arguments, "--model.engine=vllm", "--trainer.devices=[1]"])
    parallel = ["--model.engine=vllm", "--model.vllm.tensor_parallel_size=2"]
    with pytest.raises(ConfigError, match=r"= 2: in training so many ranks share an engine"):
        train.main([*arguments, *parallel])
    with pytest.raises(ConfigError, match=r"in training so many ranks share an engine, and there are 1; make"):
        train.main([*arguments, *parallel, "--trainer.devices=auto"])


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs of so many GiB."""

    def install(count, gib):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        memory = SimpleNamespace(total_memory=int(gib * 2**30))
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: memory)
        monkeypatch.setattr("taro.run.checks.vllm_is_installed", lambda: True)

    return install


def test_gpus_that_are_not_there(arguments, gpus):
    """All of them are taken where the number is left open."""
    gpus(4, 80)
    config = parse([*arguments, "--trainer.devices=auto"], SettingsAlone).config
    config.trainer.accelerator = "auto"
    config.model.engine, config.model.vllm.tensor_parallel_size, config.data.prompts_per_step = "vllm", 8, 4
    assert any("so many ranks share an engine, and there are 4; make" in problem for problem in list_problems(config))
    config.model.vllm.tensor_parallel_size, config.data.prompts_per_step = 4, 6
    (problem,) = list_problems(config)
    assert problem.startswith("data.prompts_per_step = 6 can't be shared by 4 ranks")


def test_more_memory_than_there_is(arguments, gpus):
    """Is refused where that is asked for, with what takes it and what would take less."""
    shape = "--model.name_or_path=assets/shapes/qwen2.5-vl-7b"
    own = [argument for argument in arguments if not argument.startswith("--model.name_or_path")]
    config = parse(["--config=configs/qwen25_7b.yaml", *own, shape], SettingsAlone).config
    config.trainer.accelerator, config.trainer.devices, config.data.prompts_per_step = "auto", "auto", 8
    for name, default in (("group_size", 8), ("pack_tokens", 16384)):
        config.model[name] = default
    gpus(8, 80)
    assert list_problems(config) == []
    config.strict_memory = True
    assert list_problems(config) == []
    gpus(8, 40)
    engine, update = list_problems(config)
    assert engine.startswith("strict_memory: model.vllm.gpu_memory_utilization = 0.4: vLLM's share of 40 GiB is 16.0")
    assert re.match(r"strict_memory: 61\.\d GiB are planned for the update, and each GPU has 40\.0; most of it is", update)
    assert "gradients (28.4)" in update and "trainer.strategy = fsdp2_sync_each_pack, " in update
    assert "model.loss.kl_coefficient = 0" in update
    gpus(8, 36)
    config.trainer.strategy, config.model.vllm.gpu_memory_utilization = "fsdp2_sync_each_pack", 0.9
    update, rollouts = list_problems(config)
    assert "fsdp2_sync_each_pack" not in update and "smaller groups" in update
    assert rollouts.startswith("strict_memory: 46.9 GiB are planned for the rollouts")
    assert "a lower model.vllm.gpu_memory_utilization" in rollouts
    config.trainer.accelerator = "cpu"
    config.model.engine, config.trainer.devices = "native", 1
    assert list_problems(config) == []


@pytest.mark.parametrize(
    ("devices", "count"),
    [(1, 1), (4, 4), ("4", 4), ("auto", 1), (-1, 1), ("-1", 1), ([0, 2], 2), ("0,2,", 2), ("0", 1)],
)
def test_number_of_devices(devices, count):
    assert count_devices(devices) == count


@pytest.mark.parametrize("kind", ["missing", "empty", "other"])
def test_a_folder_that_is_no_qwen_vl(arguments, no_weights, tmp_path, kind):
    folder = tmp_path / "model"
    if kind != "missing":
        folder.mkdir()
    if kind == "other":
        (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match=r"model\.name_or_path: ") as error:
        train.main([*arguments, f"--model.name_or_path={folder}"])
    assert str(folder) in str(error.value)
    if kind == "other":
        assert "is a 'llama' model, allowed: qwen2_5_vl, qwen3_vl" in str(error.value)


def with_bad_rows(synthetic, path):
    """Two of the six rows can't be right."""
    lines = (synthetic / "train.jsonl").read_text().replace('"train/', f'"{synthetic}/train/').splitlines()
    lines[1] = lines[1].replace('"duration": ', '"duration": -')
    lines[4] = lines[4].replace('"spans": [[', '"spans": [[900.0, ')
    path.write_text("\n".join(lines) + "\n")
    return f"--data.train_file={path}"


def test_bad_rows_are_refused_or_dropped(arguments, scripted, synthetic, tmp_path):
    arguments = [*arguments, with_bad_rows(synthetic, tmp_path / "train.jsonl"), "--trainer.max_epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taro.models.qwen_vl.QwenVL.from_pretrained", None)
        with pytest.raises(SampleError, match=r"(?s)2 of 6 rows.*line 2.*line 5"):
            train.main(arguments)
    assert not (tmp_path / "run").exists()
    assert train.main([*arguments, "--data.bad_rows=drop"])["steps"] == 2
    assert not list(Path(tmp_path, "run").glob("failed.jsonl"))


def test_too_few_samples(arguments, no_weights):
    with pytest.raises(SampleError, match="has 6 samples, fewer than"):
        train.main([*arguments, "--data.prompts_per_step=8"])
