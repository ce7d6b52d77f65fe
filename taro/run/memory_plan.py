"""What takes how much of a GPU's memory in training, computed from a config without loading a model:

    python -m taro.run.memory_plan --config configs/qwen25_7b.yaml --gpus 8
    python -m taro.run.memory_plan --config configs/qwen25_7b.yaml --gpus 16 --gpu_gigabytes 40 model.loss.kl_coefficient=0

Weights, gradients and optimizer are counted exactly. Activations are those of a largest pack by formula: with gradient
checkpointing each layer's input, one layer's inside and one chunk of logits; without, the inside of all layers. The largest
pack has model.pack_tokens, or is the largest possible group where that has more: a group is never divided. Not in the plan:
CUDA's own memory (about 1 GiB), NCCL's buffers, fragmentation, and vLLM's memory while it sleeps.

N ranks, L layers, S tokens of a pack, D hidden, I intermediate size, V vocabulary.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

from jsonargparse import Namespace
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from taro.command_line import Parser
from taro.errors import clean_exit
from taro.messages import print_table
from taro.models.adapters import LoRASettings
from taro.models.families import load_config
from taro.models.packing import largest_group
from taro.models.weights import parameters_on_meta
from taro.run.cli import SettingsAlone, parse

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HEAD_CHUNK = 1024  # response positions whose logits exist at a time: `compute_log_probs`


@dataclass(frozen=True)
class Shape:
    """Numbers of parameters."""

    tower: int
    layers: tuple[int, ...]  # of each decoder layer
    sides: tuple[int, ...]  # of each decoder layer, rows and columns of the matrices that get an adapter
    head: int  # embeddings, norm and LM head, tied ones once
    text: PreTrainedConfig  # of the decoder

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        kinds = layer_kinds(config.text_config)
        few = deepcopy(config)  # those of a kind are alike, and 36 take a second
        few.text_config.num_hidden_layers = 1 + max(kinds.index(kind) for kind in set(kinds))
        with parameters_on_meta():
            model = AutoModelForImageTextToText.from_config(few)
        built = model.model.language_model.layers
        tower, head = _count(model.model.visual), _count(model) - _count(model.model.visual) - _count(built)
        layers, sides = (tuple(of(built[kinds.index(kind)]) for kind in kinds) for of in (_count, _sides))
        return cls(tower, layers, sides, head, config.text_config)

    @property
    def decoder(self) -> int:
        """With embeddings and head."""
        return sum(self.layers) + self.head

    def adapters(self, rank: int) -> int:
        """Of LoRA adapters on all matrices of the decoder's layers that get one."""
        return rank * sum(self.sides)


def layer_kinds(text: PreTrainedConfig) -> list[str]:
    """Of each decoder layer."""
    return getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _sides(layer: nn.Module) -> int:
    targets = LoRASettings().targets
    adapted = (module for name, module in layer.named_modules() if name.rpartition(".")[2] in targets)
    return sum(module.in_features + module.out_features for module in adapted)


def plan(settings: Namespace, config: PreTrainedConfig, gpus: int, gpu_gigabytes: float) -> dict[str, dict[str, float]]:
    """GiB of each GPU, by what takes them, during the update and during rollouts."""
    model, shape = settings.model, Shape.of(config)
    lora = model.lora
    sharded = settings.trainer.strategy.startswith("fsdp2")
    ranks = gpus if sharded else 1
    own = BYTES[model.dtype]
    computed = 2 if settings.trainer.precision == "bf16-mixed" else own
    trained = shape.decoder if lora is None else shape.adapters(lora.rank)
    weights = (shape.decoder + shape.tower) * own + (0 if lora is None else trained * 4)
    trained_bytes = own if lora is None else 4
    kept = {
        "weights": weights / ranks,
        "optimizer (AdamW, two moments)": 2 * trained * trained_bytes / ranks,
        "reference": 0 if lora is not None or not model.loss.kl_coefficient else shape.decoder * own / ranks,
    }
    whole_gradients = settings.trainer.strategy == "fsdp2" and ranks > 1
    update = kept | {
        "gradients": trained * 4 if whole_gradients else trained * trained_bytes / ranks,
        "gathered weights": (shape.head * 2 + shape.tower + 2 * max(shape.layers)) * computed if sharded else 0,
        "activations": activation_bytes(
            shape.text, max(model.pack_tokens, _largest_group(settings)), computed, checkpointing=model.gradient_checkpointing
        ),
        "logits": HEAD_CHUNK * shape.text.vocab_size * 4 * 3,
    }
    parts = {"update": update, "rollouts": kept | _engine(shape, model, computed, gpu_gigabytes)}
    return {name: {what: size / GIB for what, size in sizes.items()} for name, sizes in parts.items()}


def _largest_group(settings: Namespace) -> int:
    model = settings.model
    return largest_group(model.group_size, model.sampling.max_tokens, settings.data.grounding.max_prompt_tokens)


def activation_bytes(text: PreTrainedConfig, tokens: int, size: int, *, checkpointing: bool) -> float:
    """Of a pack of so many tokens, with numbers of `size` bytes: what stays of each layer, and the inside of one in the
    backward pass."""
    insides = [tokens * _inside(text, kind, size) for kind in layer_kinds(text)]
    return len(insides) * tokens * text.hidden_size * size + max(insides) if checkpointing else sum(insides)


def _inside(text: PreTrainedConfig, kind: str, size: int) -> int:
    """Bytes of a token inside a layer: queries, keys, values, output, two norms, and the MLP's three products. In a recurrent
    layer queries, keys and values are those before the convolution, after it, and in float32 for the rule."""
    around = 8 * text.hidden_size + 3 * text.intermediate_size
    if kind != "linear_attention":
        return around * size
    values = text.linear_num_value_heads * text.linear_value_head_dim
    read = 2 * text.linear_num_key_heads * text.linear_key_head_dim + values
    heads = text.linear_num_value_heads * (2 * text.linear_key_head_dim + text.linear_value_head_dim)
    return (around + 2 * read + 2 * values) * size + 4 * heads


def _engine(shape: Shape, model: Namespace, size: int, gpu_gigabytes: float) -> dict[str, float]:
    if model.engine == "vllm":
        return {"vLLM (its share of the GPU)": model.vllm.gpu_memory_utilization * gpu_gigabytes * GIB}
    if model.engine == "vllm_server":
        return {}
    return {"gathered weights, without keys and values": (shape.decoder + shape.tower) * size}


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="as for train.py; several are stacked")
    parser.add_argument("--gpus", type=int, default=8, help="of all nodes together")
    parser.add_argument("--gpu_gigabytes", type=float, default=80.0, help="memory of one")
    parser.add_argument("--shape", default=None, help="folder with a config.json, in place of model.name_or_path")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("overrides", nargs="*", help="settings, as model.pack_tokens=8192")
    args = parser.parse_args(arguments)
    own = [*(f"--config={file}" for file in args.config), *(f"--{override}" for override in args.overrides)]
    settings = parse(own, SettingsAlone).config
    name = args.shape or settings.model.name_or_path
    result = plan(settings, load_config(name)[0], args.gpus, args.gpu_gigabytes)
    columns, *rows = _rows(result, args.gpu_gigabytes)
    if args.markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)))
    else:
        print(f"{name}, {args.gpus} GPU{'s' * (args.gpus > 1)} of {args.gpu_gigabytes:.0f} GiB")
        print_table(columns, rows)
        print(_about_packs(settings))
    return result


def _about_packs(settings: Namespace) -> str:
    group, budget = _largest_group(settings), settings.model.pack_tokens
    parts = "data.grounding.max_prompt_tokens + model.group_size * model.sampling.max_tokens"
    if group > budget:
        return f"The largest pack is the largest group, {group} tokens ({parts}): more than model.pack_tokens = {budget}."
    return f"The largest pack has model.pack_tokens = {budget} tokens; the largest group has {group} ({parts})."


def _rows(result: dict[str, dict[str, float]], available: float) -> Iterator[list[str]]:
    yield ["GiB on each GPU", *result]
    for part in {part: None for parts in result.values() for part in parts}:
        yield [part, *(f"{parts[part]:.1f}" if parts.get(part) else "" for parts in result.values())]
    yield ["together", *(f"{sum(parts.values()):.1f} of {available:.0f}" for parts in result.values())]


if __name__ == "__main__":
    with clean_exit():
        main()
