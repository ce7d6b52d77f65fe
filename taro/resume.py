"""Whether a checkpoint fits the run that would go on from it, told before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from taro.checkpoint_folder import CheckpointError, read_rest
from taro.checkpoints import list_checkpoints
from taro.data.datamodule import GroundingDataModule
from taro.data.samples import Sample
from taro.models.families import load_config
from taro.rl.module import GRPOModule

KEY = "taro_resume"  # of what is kept in a checkpoint for this
# The sizes that give a model's weights their shapes.
DECODER_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "tie_word_embeddings",
)  # fmt: skip
TOWER_SIZES = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size", "spatial_merge_size")


@dataclass(frozen=True)
class ResumePoint:
    """Where a checkpoint was saved."""

    path: Path
    step: int
    """Training steps that are over."""
    optimizer_steps: int
    """Updates of the weights, which `trainer.max_steps` counts."""
    validation_due: bool
    """Saved before a validation of the same step."""
    identity: dict[str, Any]
    """Of its run, see `identity_of`."""

    @classmethod
    def read(cls, path: Path) -> ResumePoint:
        """Without the weights.

        Raises:
            CheckpointError: the checkpoint was not written by `train.py`.
        """
        stored = read_rest(path)
        if KEY not in stored:
            raise CheckpointError(f"ckpt_path = {path}: not written by this version's train.py (there is no {KEY!r} in it)")
        return cls(path, optimizer_steps=stored["global_step"], **stored[KEY])


def identity_of(module: GRPOModule, data: GroundingDataModule) -> dict[str, Any]:
    """What a run can't change half way, by the setting it comes from: what decides the shapes of the weights and which
    samples each step has."""
    identity = {
        "model.name_or_path": _architecture(load_config(module.name_or_path)[0]),
        "model.dtype": module.dtype_name,
        "model.lora": None if module.lora is None else asdict(module.lora),
        "model.group_size": module.group_size,
        "seed_everything": data.seed,
        "data.prompts_per_step": data.prompts_per_step,
        "data.train_file": {"samples": len(data.samples["train"]), "digest": _digest(data.samples["train"])},
    }
    return json.loads(json.dumps(identity))  # plain types, as they come back from a checkpoint


def list_misfits(point: ResumePoint, identity: dict[str, Any], folder: Path, names_path: bool) -> list[str]:
    """All that keeps a run from going on from `point`, each with the setting to change.

    Args:
        identity: of the run that would go on.
        folder: of its checkpoints.
        names_path: `ckpt_path` is a path, and not `last` or `auto`.
    """
    misfits = list(_differences(point.identity, identity))
    own = list_checkpoints(folder)
    if names_path and own and point.path.resolve().parent != folder.resolve():
        misfits.append(
            f"ckpt_path = {point.path}: {folder} has checkpoints of its own; go on from them (ckpt_path = last), or give this "
            "run another name"
        )
    elif names_path and own and max(own) > point.step:
        misfits.append(
            f"ckpt_path = {point.path}: {folder} has later ones, up to step {max(own)}; give this run another name, or move "
            "them away"
        )
    return misfits


def _differences(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    for setting, value in here.items():
        was = there.get(setting)
        if was == value:
            continue
        if setting == "data.train_file":
            yield (
                f"data.train_file: not the training samples of the checkpoint ({value['samples']} here, {was['samples']} "
                "there); look at data.limit_train and data.bad_rows, too"
            )
        elif isinstance(value, dict) and isinstance(was, dict):
            parts = [f"{name} {value.get(name)} ({was.get(name)} there)" for name in value if value.get(name) != was.get(name)]
            yield f"{setting}: not that of the checkpoint: {', '.join(parts)}"
        else:
            yield f"{setting} = {_shown(value)}: the checkpoint's run has {_shown(was)}"


def _shown(value: Any) -> str:
    return "null" if value is None else json.dumps(value).strip('"')


def _architecture(config: PreTrainedConfig) -> dict[str, Any]:
    parts = {"decoder": (config.text_config, DECODER_SIZES), "tower": (config.vision_config, TOWER_SIZES)}
    sizes = {f"{part} {name}": getattr(of, name, None) for part, (of, names) in parts.items() for name in names}
    return {"model_type": config.model_type, **sizes}


def _digest(samples: Iterable[Sample]) -> str:
    """Of what the samples say, in their order; not of where their videos are, which may have been moved."""
    digest = hashlib.blake2b(digest_size=16)
    for sample in samples:
        row = asdict(sample) | {"video": Path(sample.video).name}
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
