"""Whether a checkpoint fits the run that would go on from it, told before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
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
        "model.name_or_path": _describe_model(module.name_or_path),
        "model.dtype": module.dtype_name,
        "model.lora": None if module.lora is None else asdict(module.lora),
        "model.group_size": module.group_size,
        "model.evaluation_max_tokens": module.greedy.max_tokens,
        "seed_everything": data.seed,
        "data.prompts_per_step": data.prompts_per_step,
        "data.grounding.prompt": data.grounding.prompt,
        "data.grounding.video": _describe_video(data.grounding.video),
        "data.grounding.evaluation_video": _describe_video(data.grounding.evaluation_video),
        "data.train_file": _describe_samples(data.samples["train"]),
        "data.validation_file": _describe_samples(data.samples["validation"]),
    }
    return json.loads(json.dumps(identity))  # plain types, as they come back from a checkpoint


def describe_test(module: GRPOModule, data: GroundingDataModule) -> dict[str, Any]:
    """All that metrics of the base model on the test file follow from."""
    grounding = data.grounding.for_evaluation()
    about = {
        "model.name_or_path": _describe_model(module.name_or_path),
        "model.dtype": module.dtype_name,
        "model.engine": module.engine_name,
        "model.evaluation_max_tokens": module.greedy.max_tokens,
        "data.grounding.prompt": grounding.prompt,
        "data.grounding.evaluation_max_prompt_tokens": grounding.max_prompt_tokens,
        "data.grounding.evaluation_video": _describe_video(grounding.video),
        "data.test_file": _describe_samples(data.samples["test"]),
    }
    return json.loads(json.dumps(about))


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
        was = there.get(setting, value)  # a checkpoint of an earlier version has fewer
        if was == value:
            continue
        if setting in FILES:
            kind, advice = FILES[setting]
            counts = f"({value['samples']} here, {was['samples']} there)"
            yield f"{setting}: not the {kind} samples of the checkpoint {counts}{advice}"
        elif isinstance(value, dict) and isinstance(was, dict):
            parts = [f"{name} {value.get(name)} ({was.get(name)} there)" for name in value if _differ(name, value, was)]
            if parts:
                yield f"{setting}: not that of the checkpoint: {', '.join(parts)}"
        else:
            yield f"{setting} = {_shown(value)}: the checkpoint's run has {_shown(was)}"


def _differ(name: str, here: dict[str, Any], there: dict[str, Any]) -> bool:
    pair = here.get(name), there.get(name)
    return pair[0] != pair[1] and not (name == WEIGHTS and None in pair)


def _shown(value: Any) -> str:
    return "null" if value is None else json.dumps(value).strip('"')


def _describe_model(name_or_path: str) -> dict[str, Any]:
    """Sizes, and which weights they are, wherever they have been moved to; None for those that are not on this machine yet."""
    config = load_config(name_or_path)[0]
    folder = Path(cached_file(name_or_path, "config.json")).parent
    return _architecture(config) | {WEIGHTS: _sample_weights(folder)}


def _sample_weights(folder: Path) -> str | None:
    """A digest of places in the files of the weights, of which all are others after a training."""
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in range(PLACES):
                file.seek(size * place // PLACES)
                digest.update(file.read(CHUNK))
    return digest.hexdigest() if files else None


def _describe_video(video: VideoSettings | None) -> dict[str, Any] | None:
    """What decides the pixels; both backends give the same."""
    if video is None:
        return None
    return {name: value for name, value in asdict(video).items() if name not in ("timeout", "backend")}


def _describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    return {"samples": len(samples), "digest": _digest(samples)}


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
