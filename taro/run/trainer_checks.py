"""Which settings of Lightning's Trainer a run takes. Those that would do nothing, or break a promise, are refused, each with
what to set instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

# By name: the values that change nothing, and what to do instead.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "fast_dev_run": ((False, 0), "would leave out checkpoints and the log; set trainer.max_steps = 1"),
    "limit_train_batches": ((None, 1.0), "would move every epoch's end; set data.limit_train (samples), or trainer.max_steps"),
    "limit_val_batches": ((None, 1.0, 0), "a part is not the whole; name a smaller data.validation_file (0: no validation)"),
    "limit_test_batches": ((None, 1.0), "would report a part as the whole; name a smaller data.test_file"),
    "limit_predict_batches": ((None, 1.0), "nothing is predicted here; leave it out"),
    "overfit_batches": ((0, 0.0), "set data.limit_train, and the same file as data.validation_file"),
    "num_sanity_val_steps": ((0,), "a part of a validation would count as the base model's score; leave it at 0"),
    "check_val_every_n_epoch": ((None,), "set trainer.val_check_interval, which counts steps through all epochs"),
    "enable_progress_bar": ((None, True), "set progress_bar.refresh_rate = 0 to have none"),
    "accumulate_grad_batches": ((None, 1), "a step already accumulates its prompts; set data.prompts_per_step instead"),
    "gradient_clip_val": ((None,), "does nothing here: set model.optimizer.clip_norm"),
    "gradient_clip_algorithm": ((None,), "does nothing here: the norm is clipped, to model.optimizer.clip_norm"),
    "use_distributed_sampler": ((False,), "the data module decides which rank sees which sample; leave it at false"),
    "inference_mode": ((False,), "weights and metrics that an evaluation makes in it can't be used afterwards; leave it"),
    "barebones": ((False,), "would leave out checkpoints and the log; leave it at false"),
    "sync_batchnorm": ((False,), "Qwen-VL models have no batch norm; leave it at false"),
    "reload_dataloaders_every_n_epochs": ((0,), "samples are drawn anew in each epoch as it is; leave it at 0"),
    "default_root_dir": ((None,), "does nothing here: a run's folder is output_dir/name"),
    "model_registry": ((None,), "checkpoints stay in the run's folder, and its hf/ can be uploaded; leave it out"),
}
# Callbacks of Lightning that a run has its own of, or that can't be, by the last part of their name.
REFUSED_CALLBACKS = {
    "ModelCheckpoint": "set checkpoint.monitor, checkpoint.keep_best and checkpoint.every_n_steps",
    "OnExceptionCheckpoint": "a run that is cut short saves by itself",
    "RichProgressBar": "set progress_bar",
    "TQDMProgressBar": "set progress_bar",
    "GradientAccumulationScheduler": "set data.prompts_per_step",
    "BatchSizeFinder": "set data.prompts_per_step",
    "BackboneFinetuning": "the tower is frozen, the rest is trained; model.lora trains adapters alone",
    **dict.fromkeys(
        ("LearningRateFinder", "StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging", "ModelPruning"),
        "a step of GRPO is no step of Lightning's own optimization",
    ),
}


def trainer_problems(trainer: Mapping[str, Any]) -> Iterator[str]:
    """Of the section `trainer` of a parsed configuration, objects as `class_path` and `init_args`."""
    for name, (allowed, instead) in REFUSED.items():
        value = trainer.get(name)
        if not any(type(value) is type(one) and value == one for one in allowed):  # 1 is a batch, 1.0 is all of them
            shown = json.dumps(value, default=str).strip('"')
            yield f"trainer.{name} = {shown}: {instead}"
    for callback in as_list(trainer.get("callbacks")):
        name = class_name(callback)
        if name in REFUSED_CALLBACKS:
            yield f"trainer.callbacks has {name}: {REFUSED_CALLBACKS[name]}"
    for plugin in as_list(trainer.get("plugins")):
        if class_name(plugin).endswith("CheckpointIO"):
            yield f"trainer.plugins has {class_name(plugin)}: checkpoints have a format of their own; leave it out"


def as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def class_name(value: Any) -> str:
    """The last part of the name of a parsed object's class; "" where it is none."""
    path = value if isinstance(value, str) else getattr(value, "class_path", None) or ""
    return path.rpartition(".")[2]
