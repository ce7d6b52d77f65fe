"""A checkpoint as a model folder that transformers and vLLM load as it is:

    python -m taro.models.export --checkpoint outputs/tiny/checkpoints/last.ckpt --output exported
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.utils import cached_file

from taro.command_line import Parser
from taro.distributed import global_rank
from taro.errors import TaroError, clean_exit
from taro.files import PART, publish, remove
from taro.models.adapters import LoRASettings, add_adapters
from taro.models.checkpoint import read_into, read_run, reason
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


class ExportError(TaroError):
    """A model folder that can't be written."""


def export_policy(
    policy: QwenVL, source: str, output: Path, settings: GroundingSettings | None, dtype: str | None = None
) -> None:
    """Write weights, config, tokenizer, the files that `source` has beside them, and the grounding settings: the folder is
    whole or as it was. Of a sharded policy all ranks call this, and rank 0 writes.

    Raises:
        ExportError: it can't be written, or the folder holds something else than a model.
    """
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").exists():
        raise ExportError(f"{output} holds files that are no model's: choose another folder")
    part, writes = output.with_name(f"{output.name}{PART}"), global_rank() == 0
    try:
        if writes:
            output.parent.mkdir(parents=True, exist_ok=True)
            remove(part)
        policy.save_pretrained(part, dtype)
        if writes:
            _add_companions(part, source)
            if settings is not None:
                settings.save(part)
            publish(part, output)
    except (OSError, SafetensorError) as error:
        if writes:
            shutil.rmtree(part, ignore_errors=True)
        raise ExportError(f"{output} can't be written ({reason(error)})") from error


def _add_companions(folder: Path, source: str) -> None:
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    for name in COMPANIONS:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if found is not None and not (folder / name).exists():
            shutil.copy(found, folder / name)


def export_command(checkpoint: str | Path, output: Path) -> str:
    """That makes the same folder."""
    return f"python -m taro.models.export --checkpoint {shlex.quote(str(checkpoint))} --output {shlex.quote(str(output))}"


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dtype", default=None, help="float32, bfloat16 or float16; as in the checkpoint unless given")
    args = parser.parse_args(arguments)
    stored = read_run(args.checkpoint)
    model = stored["model"]
    policy = QwenVL.from_pretrained(model["name_or_path"], model["dtype"])
    policy.freeze_tower()
    if model["lora"] is not None:
        add_adapters(policy.model, LoRASettings(**model["lora"]))
    read_into(args.checkpoint, policy.trained_weights(), None)
    settings = GroundingSettings.from_dict(model["grounding"])
    export_policy(policy, model["name_or_path"], args.output, settings, args.dtype)
    print(f"{args.output}: {model['name_or_path']} with the weights of step {stored['step']}")


if __name__ == "__main__":
    with clean_exit():
        main()
