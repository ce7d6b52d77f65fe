"""What can't work in a configuration, found before a model is loaded, all of it at once, each with the setting to change."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from taro.cache import DiskCacheSettings
from taro.errors import TaroError
from taro.evaluation.metrics import GroundingMetrics, metric_names
from taro.files import PART
from taro.models.adapters import LoRASettings, peft_is_installed
from taro.models.attention import FLEX, OWN, SHARED_PREFIX
from taro.models.compiled import CompilerError, require_compiler
from taro.models.families import ModelError, load_config, torch_dtype
from taro.models.packing import largest_group
from taro.models.settings import GroundingSettings
from taro.progress import Plan
from taro.prompts import build_request
from taro.ranges import range_problems
from taro.rl.rewards.choose import REWARDS, RewardError, Rewards
from taro.rl.settings import OF_STEP, TemporalRewardSettings
from taro.rollout.vllm_prompts import vllm_is_installed
from taro.run.checkpoint_files import list_checkpoints, none_yet
from taro.run.memory import GIB, engine_problem, plan, savings
from taro.run.trainer_checks import trainer_problems
from taro.tasks import DEFAULT, TASKS, find_task
from taro.video.load import VideoSettings

ALLOWED = {
    "trainer.precision": ("32-true", "bf16-mixed", "32", "bf16"),
    "trainer.strategy": ("auto", "ddp", "fsdp2", "fsdp2_sync_each_pack", "single_device"),
    # Those that take a pack's layouts, or its mask: transformers' `eager` adds masks to scores, and takes True for 1.
    "model.attention": (SHARED_PREFIX, FLEX, "sdpa"),
}
MAY_BE_LEFT_OUT = {  # sections of which the parser takes null for a number
    "data.grounding": GroundingSettings,
    "data.frame_cache": DiskCacheSettings,
    "model.feature_cache": DiskCacheSettings,
    "model.lora": LoRASettings,
    "model.temporal_reward": TemporalRewardSettings,
}
ENVIRONMENT = "environment.json"  # the first file of a run's folder
RUN_FILES = (ENVIRONMENT, f"{ENVIRONMENT}{PART}", "checkpoints")  # a folder that has none of them is no run's


class ConfigError(TaroError):
    """Settings that can't work, alone or together; lists all of them."""


def list_problems(config: Namespace) -> list[str]:
    """All that can't work in a parsed configuration."""
    given = {name: (config[name], kind) for name, kind in MAY_BE_LEFT_OUT.items() if config[name] is not None}
    if empty := [problem for name, (values, kind) in given.items() for problem in range_problems(values, f"{name}.", kind)]:
        return empty  # what follows counts with these numbers
    parts = (_conflicts, _rewards, _trainer, _parts, _memory, _folder, _files, _monitor, _cache_folders)
    return [problem for part in parts for problem in part(config)]


def list_plan_problems(config: Namespace, plan: Plan, validated: Collection[str] = (DEFAULT,)) -> list[str]:
    """What can't work with so many steps, or with validation samples of these tasks, known when the samples are read."""
    warmup, monitor = config.model.optimizer.warmup_steps, config.checkpoint.monitor
    problems, found = [], [] if set(validated) == {DEFAULT} else [f"vtg/{task}/" for task in dict.fromkeys(validated)]
    if 0 < warmup >= plan.steps > 0:
        problems.append(
            f"model.optimizer.warmup_steps = {warmup}: the run has {plan.steps} steps and would not get beyond them; lower it, "
            "or raise trainer.max_epochs or trainer.max_steps"
        )
    if monitor.count("/") > 1 and not monitor.startswith(tuple(found)):
        there = f"vtg/NAME, {', '.join(f'{prefix}NAME' for prefix in found)}" if found else "vtg/NAME"
        problems.append(f"checkpoint.monitor = {monitor}: no validation sample is of this task; a validation has {there}")
    return problems


def list_notes(config: Namespace) -> list[str]:
    """What works and is worth knowing before the run."""
    model = config.model
    largest = largest_group(model.group_size, model.sampling.max_tokens, config.data.grounding.max_prompt_tokens)
    if largest <= model.pack_tokens:
        return []
    return [
        f"a group may have up to {largest} tokens (data.grounding.max_prompt_tokens + model.group_size * "
        f"model.sampling.max_tokens), more than model.pack_tokens = {model.pack_tokens}: it has a pass of its own, for "
        "which memory must be enough (python -m taro.run.memory_plan says how much). To save memory, lower one of the three"
    ]


def run_folder(config: Namespace) -> Path:
    return Path(config.output_dir, config.name)


def refuse(problems: list[str], reason: str = "the configuration can't work") -> None:
    """Raise one ConfigError that lists all problems, where there are any."""
    if problems:
        raise ConfigError("\n- ".join([f"{reason}:", *problems]))


def _conflicts(config: Namespace) -> Iterator[str]:
    model, data, trainer = config.model, config.data, config.trainer
    if model.rollout_rows < model.group_size:
        yield f"model.rollout_rows = {model.rollout_rows} is below model.group_size = {model.group_size}: raise it"
    for name, allowed in ALLOWED.items():
        value = config[name]
        if isinstance(value, str | int) and str(value) not in allowed:
            yield f"{name} = {value}: allowed are {', '.join(allowed)}"
    no_gpu = _no_gpu(trainer)
    if model.attention == FLEX and no_gpu:
        yield f"model.attention = {FLEX}: FlexAttention has no backward pass on a CPU; set {SHARED_PREFIX}"
    if model.torch_compile and model.attention not in OWN:
        yield f"model.torch_compile with model.attention = {model.attention}: set {' or '.join(OWN)}, or leave it out"
    if model.torch_compile:
        yield from _compiler("model.torch_compile", "false", no_gpu)
    elif model.attention == FLEX and not no_gpu:
        yield from _compiler(f"model.attention = {FLEX}", SHARED_PREFIX, no_gpu)
    if model.optimizer.schedule != "constant" and trainer.max_epochs == trainer.max_steps == -1:
        yield (
            f"model.optimizer.schedule = {model.optimizer.schedule}: the run has no end to decay to; set trainer.max_epochs or "
            "trainer.max_steps, or constant"
        )
    if model.sampling.temperature == 0:
        yield "model.sampling.temperature = 0.0: must be above 0 in training: all completions of a group would be the same"
    if model.sampling.repetition_penalty != 1:
        yield "model.sampling.repetition_penalty: samples of the training must be the policy's own; leave it at 1"
    yield from _of_step(model)
    yield from _ahead(model)
    sharded = str(trainer.strategy).startswith("fsdp2")
    if model.lora is not None and not peft_is_installed():
        yield "model.lora needs peft: pip install -e '.[lora]', or set it to null"
    if model.lora is not None and sharded:
        yield (
            f"model.lora with trainer.strategy = {trainer.strategy}: set ddp or auto; adapters are small, and each GPU has the "
            "rest"
        )
    if sharded and model.temporal_reward is not None and model.temporal_reward.permutation == "completion":
        yield (
            "model.temporal_reward.permutation = completion: where weights are sharded (trainer.strategy = "
            f"{trainer.strategy}) all ranks need equally many passes; set group"
        )
    ranks = _count_ranks(trainer)
    if data.prompts_per_step % ranks:
        yield f"data.prompts_per_step = {data.prompts_per_step} can't be shared by {ranks} ranks: make it a multiple"
    for limit, video in (("max_prompt_tokens", "video"), ("evaluation_max_prompt_tokens", "evaluation_video")):
        allowed, settings = data.grounding[limit], data.grounding[video]
        if settings is not None and allowed <= settings.max_tokens:
            yield (
                f"data.grounding.{limit} = {allowed} leaves no room beside data.grounding.{video}.max_tokens = "
                f"{settings.max_tokens}: raise the one or lower the other"
            )
    if model.engine != "native" and not vllm_is_installed():
        yield f"model.engine = {model.engine}: vLLM is not installed; pip install -e '.[vllm]', or set native"
    if model.engine == "vllm":
        yield from _vllm(config, ranks)
    if model.engine == "vllm_server":
        yield from _vllm_server(model.vllm_server, no_gpu)


def _compiler(setting: str, otherwise: str, no_gpu: bool) -> Iterator[str]:
    try:
        require_compiler("cpu" if no_gpu else "cuda")
    except CompilerError as error:
        yield f"{setting}: {error}; set it to {otherwise}"


def _of_step(model: Namespace) -> Iterator[str]:
    """What has to know all rewards of a step before any pass, which the temporal one comes after."""
    advantages = model.advantages
    early = {f"model.advantages.scale = {advantages.scale}": advantages.scale in OF_STEP}
    early[f"model.dynamic_sampling = {model.dynamic_sampling}"] = model.dynamic_sampling > 0
    for setting in [name for name, chosen in early.items() if chosen and model.temporal_reward is not None]:
        yield (
            f"{setting} needs rewards that are known before any pass, and the temporal one is not: set model.temporal_reward "
            "to null, or leave it out"
        )
    if advantages.decay >= 1:
        yield f"model.advantages.decay = {advantages.decay}: must be below 1"


def _ahead(model: Namespace) -> Iterator[str]:
    """What keeps rollouts from being one step old."""
    if not model.rollouts_ahead:
        return
    if model.engine != "vllm_server":
        yield (
            f"model.rollouts_ahead = 1 with model.engine = {model.engine}: it works in turns with the update, on the same "
            "hardware; set vllm_server, or model.rollouts_ahead to 0"
        )
    if model.dynamic_sampling:
        yield (
            f"model.rollouts_ahead = 1 with model.dynamic_sampling = {model.dynamic_sampling}: prompts that are drawn again "
            "would have to be waited for; set one of the two to 0"
        )
    if model.loss.importance_cap is None:
        yield (
            "model.rollouts_ahead = 1 with model.loss.importance_cap = null: nothing would make up for the older weights; set "
            "it, as to 2.0, or model.rollouts_ahead to 0"
        )


def _rewards(config: Namespace) -> Iterator[str]:
    named = [*config.model.rewards, *(name for own in (config.model.task_rewards or {}).values() for name in own)]
    t_grpo = any(REWARDS.get(name, name) == REWARDS["t_grpo"] for name in named)
    if t_grpo and config.curriculum.warmup_epochs:
        yield (
            f"curriculum.warmup_epochs = {config.curriculum.warmup_epochs}: the reward t_grpo compares with completions "
            "without constructed paths; set it to 0"
        )
    if t_grpo and not config.model.shuffled_rollouts:
        yield (
            "model.shuffled_rollouts = 0: the reward t_grpo compares with completions on shuffled frames; set it, to half of "
            f"model.group_size = {config.model.group_size} as its source does"
        )
    temporal = config.model.temporal_reward
    unpaid = "" if config.stage == "sft" else "= null" if temporal is None else "" if temporal.bonus else "with a bonus of 0"
    chosen = {"model.rewards": (config.model.rewards, {})}
    chosen |= {f"model.task_rewards.{task}": (own, {task: {}}) for task, own in (config.model.task_rewards or {}).items()}
    for setting, (rewards, by_task) in chosen.items():
        for weights in ({}, *({name: value} for name, value in rewards.items())):
            try:
                Rewards(weights, {} if weights else by_task)
            except RewardError as error:
                yield f"{setting}: {error}"
        pays = any(_weight(value) != 0 for value in rewards.values())
        if unpaid and not pays and (by_task or not config.model.task_rewards):
            zero = "with weights of 0 alone" if rewards else "= {}"
            yield f"{setting} {zero}, model.temporal_reward {unpaid}: nothing is rewarded; give a reward a weight"


def _weight(value: Any) -> Any:
    """Of a reward, as it is given."""
    return value.get("weight", 1.0) if isinstance(value, Mapping) else value


def _vllm(config: Namespace, ranks: int) -> Iterator[str]:
    model, grounding, devices = config.model, config.data.grounding, config.trainer.devices
    if isinstance(devices, list) and devices != list(range(len(devices))):
        yield f"trainer.devices = {devices}: vLLM takes the first GPUs it sees; set CUDA_VISIBLE_DEVICES, and a number here"
    if ranks % model.vllm.tensor_parallel_size:
        yield (
            f"model.vllm.tensor_parallel_size = {model.vllm.tensor_parallel_size}: in training so many ranks share an engine, "
            f"and there are {ranks}; make trainer.devices * trainer.num_nodes a multiple"
        )
    prompts = max(grounding.max_prompt_tokens, grounding.evaluation_max_prompt_tokens)
    needed = prompts + max(model.sampling.max_tokens, model.evaluation_max_tokens)
    if model.vllm.max_model_len is not None and model.vllm.max_model_len < needed:
        yield (
            f"model.vllm.max_model_len = {model.vllm.max_model_len} is less than the longest prompt and completion, {needed} "
            "tokens: raise it, or lower data.grounding.max_prompt_tokens and evaluation_max_prompt_tokens: longer prompts are "
            "then counted as failed"
        )


def _vllm_server(server: Namespace, no_gpu: bool) -> Iterator[str]:
    if not server.url.startswith(("http://", "https://")):
        yield f"model.vllm_server.url = {server.url}: must start with http:// or https://"
    if server.weights == "folder" and server.folder is None:
        yield "model.vllm_server.weights = folder: name model.vllm_server.folder, which the server sees, too"
    if server.weights == "nccl" and no_gpu:
        yield "model.vllm_server.weights = nccl needs a GPU here: set folder"


def _parts(config: Namespace) -> Iterator[str]:
    """What the parts themselves refuse."""
    model, grounding = config.model, config.data.grounding
    checks = {
        "model.dtype": lambda: torch_dtype(model.dtype),
        "model.name_or_path": lambda: load_config(model.name_or_path),
        "data.grounding.prompt": lambda: build_request("check", grounding.prompt),
        "data.grounding.instructions": lambda: list(map(find_task, grounding.instructions or ())),
        "data.grounding.video": lambda: VideoSettings(**vars(grounding.video)),
    }
    if grounding.evaluation_video is not None:
        checks["data.grounding.evaluation_video"] = lambda: VideoSettings(**vars(grounding.evaluation_video))
    for name, check in checks.items():
        try:
            check()
        except (ModelError, ValueError) as error:
            yield f"{name}: {error}"


def _trainer(config: Namespace) -> Iterator[str]:
    """What Lightning would refuse when it is asked to train, or not at all."""
    trainer, seed = config.trainer, config.seed_everything
    yield from trainer_problems(trainer)
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
        yield f"seed_everything = {seed}: must be from 0 to {2**32 - 1}"
    if trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        yield f"trainer.accelerator = {trainer.accelerator}: PyTorch sees no GPU here; set cpu, or auto"
    interval = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is None and not (isinstance(interval, int) and interval > 0):
        yield (
            f"trainer.val_check_interval = {interval}: counts training steps, a whole number from 1 (as "
            "trainer.check_val_every_n_epoch is null)"
        )
    if trainer.enable_checkpointing is False:
        yield "trainer.enable_checkpointing = false: what is exported comes from checkpoints; see checkpoint.keep_last"


def _folder(config: Namespace) -> Iterator[str]:
    """An earlier run's folder is renamed, so it has to be one."""
    name, folder = config.name, run_folder(config)
    if not name or name in (".", "..") or Path(name).name != name:
        yield f"name = {name!r}: the run's folder in output_dir is called so; give one name without a path"
    elif folder.is_dir():
        if any(folder.iterdir()) and not any((folder / file).exists() for file in RUN_FILES):
            yield f"name = {name}: {folder} is there and holds no run; give another name, or another output_dir"
    elif folder.exists():
        yield f"name = {name}: {folder} is there and is no folder; give another name, or another output_dir"


def _files(config: Namespace) -> Iterator[str]:
    for name in ("train_file", "validation_file", "test_file"):
        file = config.data[name]
        if file is not None and not Path(file).is_file():
            yield (
                f"data.{name} = {file}: no such file (python -m taro.synthetic --output data/synthetic makes the "
                "synthetic ones)"
            )
    folder, wanted = Path(config.checkpoint.folder), config.ckpt_path
    if wanted == "last" and not list_checkpoints(folder):
        yield none_yet(folder)
    if wanted not in (None, "last", "auto") and not Path(wanted).exists():
        yield f"ckpt_path = {wanted}: there is no such checkpoint"


def _monitor(config: Namespace) -> Iterator[str]:
    metrics = GroundingMetrics()
    metrics.update([None], [[(0.0, 1.0)]], [""])
    allowed = [f"vtg/{name}" for name in metrics.compute() if name not in ("failed", "samples")]  # more must be better
    of_tasks = [f"vtg/{name}/{metric}" for name, task in TASKS.items() for metric in metric_names(task)]
    if config.checkpoint.monitor not in [*allowed, *of_tasks]:
        others = "and, of samples of several tasks, vtg/TASK/NAME (docs/tasks.md)"
        yield f"checkpoint.monitor = {config.checkpoint.monitor}: a validation has {', '.join(allowed)}, {others}"


def _cache_folders(config: Namespace) -> Iterator[str]:
    """Made here, and written to, since nothing else tells for sure whether they can be."""
    for name in ("data.frame_cache", "model.feature_cache"):
        settings = config.get(name)
        if settings is not None:
            try:
                Path(settings.folder).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=settings.folder).close()
            except OSError as error:
                yield f"{name}.folder = {settings.folder}: no folder that can be made and written to ({error.strerror})"


def _memory(config: Namespace) -> Iterator[str]:
    """A plan that takes more than the GPUs have, where that is to be refused."""
    if not config.strict_memory or _no_gpu(config.trainer):
        return
    try:
        shape = load_config(config.model.name_or_path)[0]
    except ModelError:  # which is a problem of its own
        return
    there = torch.cuda.get_device_properties(0).total_memory / GIB
    if problem := engine_problem(config, shape, there):
        yield f"strict_memory: {problem}"
    for name, parts in plan(config, shape, _count_ranks(config.trainer), there).items():
        if (together := sum(parts.values())) > there:
            largest = sorted(parts, key=parts.get, reverse=True)[:3]
            yield (
                f"strict_memory: {together:.1f} GiB are planned for the {name}, and each GPU has {there:.1f}; most of it is "
                f"{', '.join(f'{part} ({parts[part]:.1f})' for part in largest)}. What takes less: "
                f"{', '.join(savings(config, rollouts=name == 'rollouts'))} (python -m taro.run.memory_plan shows all)"
            )


def _no_gpu(trainer: Namespace) -> bool:
    return trainer.accelerator == "cpu" or not torch.cuda.is_available()


def _count_ranks(trainer: Namespace) -> int:
    there = 1 if _no_gpu(trainer) else torch.cuda.device_count()
    return count_devices(trainer.devices, there) * (trainer.num_nodes or 1)


def count_devices(devices: list[int] | str | int, there: int = 1) -> int:
    """Of each node; all that are `there` where it is left to Lightning (`auto`, -1). From the command line a number is text."""
    if isinstance(devices, str) and "," in devices:
        devices = [device for device in devices.split(",") if device.strip()]
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if str(devices).isdigit() and int(devices) > 0 else there
