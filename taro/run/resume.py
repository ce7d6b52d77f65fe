"""Whether a checkpoint fits the run that would go on from it, told before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from taro.data.datamodule import GroundingDataModule
from taro.data.samples import Sample
from taro.models.checkpoint import CheckpointError, read_run
from taro.models.families import load_config
from taro.rl.module import GRPOModule
from taro.run.checkpoint_files import list_checkpoints
from taro.video.load import VideoSettings

FILES = {
    "data.train_file": ("training", "; look at data.limit_train and data.bad_rows, too"),
    "data.validation_file": ("validation", ", so that their scores can't be compared"),
}
WEIGHTS = "digest of the weights"
PLACES, CHUNK = 16, 2**12  # of a file of weights: so many places, with so many bytes each
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
    callbacks: dict[str, Any] = field(default_factory=dict)
    """What each callback keeps, by its `state_key`."""

    @classmethod
    def read(cls, path: Path) -> ResumePoint:
        """Without the tensors.

        Raises:
            CheckpointError: the checkpoint was not written by `train.py`.
        """
        stored = read_run(path)
        missing = [one.name for one in fields(cls) if one.name not in {"path", *stored}]
        if missing:
            raise CheckpointError(f"ckpt_path = {path}: not written by this version's train.py (it does not say {missing[0]})")
        return cls(path, **{one.name: stored[one.name] for one in fields(cls) if one.name != "path"})


def describe_run(module: GRPOModule, data: GroundingDataModule) -> dict[str, Any]:
    """What a checkpoint says about its run, the same in all of them: to compare another run with, and to export it."""
    model = {
        "name_or_path": module.name_or_path,
        "dtype": module.dtype_name,
        "lora": None if module.lora is None else asdict(module.lora),
        "grounding": asdict(data.grounding),
    }
    return {"identity": identity_of(module, data), "model": model}


def identity_of(module: GRPOModule, data: GroundingDataModule) -> dict[str, Any]:
    """What a run can't change half way, by the setting it comes from: the model, the shapes of the weights, which samples each
    step has, what the model sees of them, and what makes scores of validations comparable."""
    identity = {
        "stage": module.stage,
        "model.name_or_path": _describe_model(module.name_or_path),
        "model.dtype": module.dtype_name,
        "model.lora": None if module.lora is None else asdict(module.lora),
        "model.group_size": module.group_size,
        "model.evaluation_max_tokens": module.greedy.max_tokens,
        "seed_everything": data.seed,
        "data.prompts_per_step": data.prompts_per_step,
        "data.task_weights": data.task_weights,
        "data.difficulty_weights": data.difficulty_weights,
        "data.grounding.prompt": data.grounding.prompt,
        "data.grounding.instructions": data.grounding.instructions,
        "data.grounding.video": _describe_video(data.grounding.video),
        "data.grounding.evaluation_video": _describe_video(data.grounding.evaluation_video),
        "data.train_file": _describe_samples(data.samples["train"]),
        "data.validation_file": _describe_samples(data.samples["validation"]),
    }
    return json.loads(json.dumps(identity))  # plain types, as they come back from a checkpoint


def describe_test(module: GRPOModule, data: GroundingDataModule) -> dict[str, Any]:
    """All that metrics of the base model on the test file follow from, and what else can't change in a run."""
    return identity_of(module, data) | {
        "model.engine": module.engine_name,
        "data.grounding.evaluation_max_prompt_tokens": data.grounding.for_evaluation().max_prompt_tokens,
        "data.test_file": _describe_samples(data.samples["test"]),
    }


def list_misfits(point: ResumePoint, identity: dict[str, Any], folder: Path, names_path: bool) -> list[str]:
    """All that keeps a run from going on from `point`, each with the setting to change.

    Args:
        identity: of the run that would go on.
        folder: of its checkpoints.
        names_path: `ckpt_path` is a path, and not `last` or `auto`.
    """
    # A checkpoint of an earlier version says less: what there was not yet is as it was.
    known = {"data.difficulty_weights": None, "stage": "grpo"} | point.identity
    misfits = [text for name, value in identity.items() for text in _misfit(name, known.get(name, value), value)]
    own = list_checkpoints(folder) if names_path else {}
    if own and point.path.resolve().parent != folder.resolve():
        misfits.append(
            f"ckpt_path = {point.path}: {folder} has checkpoints of its own; go on from them (ckpt_path = last), or give this "
            "run another name"
        )
    elif own and max(own) > point.step:
        misfits.append(
            f"ckpt_path = {point.path}: {folder} has later ones, up to step {max(own)}; give this run another name, or move "
            "them away"
        )
    return misfits


def _misfit(setting: str, there: Any, here: Any) -> Iterator[str]:
    if there == here:
        return
    if setting in FILES:
        kind, advice = FILES[setting]
        counts = f"({here['samples']} here, {there['samples']} there)"
        yield f"{setting}: not the {kind} samples of the checkpoint {counts}{advice}"
    elif isinstance(here, dict) and isinstance(there, dict):
        pairs = {name: (value, there.get(name)) for name, value in here.items()}
        differing = {name: (a, b) for name, (a, b) in pairs.items() if a != b and not (name == WEIGHTS and None in (a, b))}
        parts = [f"{name} {a} ({b} there)" for name, (a, b) in differing.items()]
        if parts:
            yield f"{setting}: not that of the checkpoint: {', '.join(parts)}"
    else:
        yield f"{setting} = {_shown(here)}: the checkpoint's run has {_shown(there)}"


def _shown(value: Any) -> str:
    return json.dumps(value).strip('"')


def _describe_model(name_or_path: str) -> dict[str, Any]:
    """Sizes, and which weights they are, wherever they have been moved to: a digest of places in their files, of which all are
    others after a training; None for those that are not on this machine yet."""
    config = load_config(name_or_path)[0]
    parts = {"decoder": (config.text_config, DECODER_SIZES), "tower": (config.vision_config, TOWER_SIZES)}
    sizes = {f"{part} {name}": getattr(of, name, None) for part, (of, names) in parts.items() for name in names}
    files = sorted(Path(cached_file(name_or_path, "config.json")).parent.glob("*.safetensors"))
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in range(PLACES):
                file.seek(size * place // PLACES)
                digest.update(file.read(CHUNK))
    return {"model_type": config.model_type, **sizes, WEIGHTS: digest.hexdigest() if files else None}


def _describe_video(video: VideoSettings | None) -> dict[str, Any] | None:
    """What decides the pixels; both backends give the same."""
    return video and {name: value for name, value in asdict(video).items() if name not in ("timeout", "backend")}


def _describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """What they say, in their order; not where their videos are, which may have been moved."""
    digest = hashlib.blake2b(digest_size=16)
    for sample in samples:
        row = asdict(sample) | {"video": Path(sample.video).name}
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return {"samples": len(samples), "digest": digest.hexdigest()}
