"""A checkpoint as a model folder that transformers and vLLM load as it is:

    python -m taro.models.export --checkpoint outputs/tiny/checkpoints/last.ckpt --output exported
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer
from transformers.utils import cached_file

from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings

# What belongs to a model folder beside its weights, config and tokenizer.
COMPANIONS = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
)


def export_policy(
    policy: QwenVL, source: str, output: Path, settings: GroundingSettings | None, dtype: str | None = None
) -> None:
    """Write weights, config, tokenizer, the files that `source` has beside them, and the grounding settings."""
    policy.save_pretrained(output, dtype)
    AutoTokenizer.from_pretrained(source).save_pretrained(output)
    for name in COMPANIONS:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if found is not None and not (output / name).exists():
            shutil.copy(found, output / name)
    if settings is not None:
        settings.save(output)


def load_policy_weights(policy: QwenVL, checkpoint: str | Path) -> dict:
    """Put the weights of a checkpoint into `policy`; returns the checkpoint.

    Raises:
        ValueError: it is not a checkpoint of this model.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    prefix = "policy."
    weights = {name[len(prefix) :]: value for name, value in state["state_dict"].items() if name.startswith(prefix)}
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    tower = [name for name in missing if not name.startswith("model.model.visual.")]
    if tower or unexpected:
        raise ValueError(
            f"{checkpoint} does not fit {type(policy.model).__name__}: missing {tower[:5]}, unexpected {unexpected[:5]}"
        )
    return state


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dtype", default=None, help="float32, bfloat16 or float16; as in the checkpoint unless given")
    args = parser.parse_args(arguments)
    stored = torch.load(args.checkpoint, map_location="cpu", weights_only=True)["taro"]
    policy = QwenVL.from_pretrained(stored["name_or_path"], stored["dtype"])
    load_policy_weights(policy, args.checkpoint)
    settings = GroundingSettings.from_dict(stored["grounding"])
    export_policy(policy, stored["name_or_path"], args.output, settings, args.dtype)
    print(f"{args.output}: {stored['name_or_path']} with the weights of step {stored['step']}")


if __name__ == "__main__":
    main()
