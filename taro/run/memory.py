"""What takes how much of a GPU's memory in training, computed from settings and a model's config. The command that shows it:
taro/run/memory_plan.py.

Weights, gradients and optimizer are counted exactly; activations by formulas that a test compares with what passes of real size
keep. Not in the plan: CUDA's own memory (about 1 GiB), NCCL's buffers, and fragmentation. The end of a backward pass, where
embeddings and head are reduced, takes less than its layers do, whose activations are gone by then.

N ranks, L layers, S tokens of a pack, D hidden, I intermediate size, A and K widths of all query and
all key heads, V vocabulary.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from jsonargparse import Namespace
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from taro.models.adapters import LoRASettings
from taro.models.packing import largest_group
from taro.models.pass_cost import attention_widths, layer_kinds

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
HEAD_CHUNK = 1024  # response positions whose logits exist at a time: `compute_log_probs`
AHEAD = 2  # layers that FSDP2 has gathered, or is reducing, at a time
WORKING = 1.0  # GiB, of vLLM: what a pass computes with (an estimate)
ASLEEP = 2 * GIB  # of vLLM: CUDA graphs, and what its sampler keeps of each request that there may be (an estimate)


@dataclass(frozen=True)
class Shape:
    """Numbers of parameters."""

    tower: int
    layers: tuple[int, ...]  # of each decoder layer
    sides: tuple[int, ...]  # of each decoder layer, rows and columns of the matrices that get an adapter
    head: int  # embeddings, norm and LM head, tied ones once
    tied: bool
    text: PreTrainedConfig  # of the decoder

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        kinds = layer_kinds(config.text_config)
        few = deepcopy(config)  # those of a kind are alike, and 36 take a second
        few.text_config.num_hidden_layers = 1 + max(kinds.index(kind) for kind in kinds)
        with torch.device("meta"):  # and without values
            model = AutoModelForImageTextToText.from_config(few)
        decoder, tower = model.model.language_model, _count(model.model.visual)
        layers, sides = (tuple(of(decoder.layers[kinds.index(kind)]) for kind in kinds) for of in (_count, _sides))
        head = _count(model) - tower - _count(decoder.layers)
        return cls(tower, layers, sides, head, model.lm_head.weight is decoder.embed_tokens.weight, config.text_config)

    @property
    def layer(self) -> int:
        """Of the largest decoder layer."""
        return max(self.layers)

    @property
    def decoder(self) -> int:
        """With embeddings and head."""
        return sum(self.layers) + self.head

    def adapters(self, rank: int) -> int:
        """Of LoRA adapters on all matrices of the decoder's layers that get one."""
        return rank * sum(self.sides)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _sides(layer: nn.Module) -> int:
    targets = LoRASettings().targets
    adapted = [module for name, module in layer.named_modules() if name.rpartition(".")[2] in targets]
    return sum(module.in_features + module.out_features for module in adapted)


def _rule_width(text: PreTrainedConfig) -> int:
    """Of queries, keys and values of all heads of a recurrent layer, where the model has such."""
    sizes = 2 * getattr(text, "linear_key_head_dim", 0) + getattr(text, "linear_value_head_dim", 0)
    return getattr(text, "linear_num_value_heads", 0) * sizes


def plan(settings: Namespace, config: PreTrainedConfig, gpus: int, gpu_gigabytes: float) -> dict[str, dict[str, float]]:
    """GiB of each GPU, by what takes them, in the last backward pass of a step, in its optimizer step, and during rollouts."""
    model, shape = settings.model, Shape.of(config)
    lora = model.lora
    sharded = str(settings.trainer.strategy).startswith("fsdp2")
    ranks = gpus if sharded else 1
    own = BYTES[model.dtype]
    computed = 2 if settings.trainer.precision in ("bf16-mixed", "bf16") else own
    trained = shape.decoder if lora is None else shape.adapters(lora.rank)
    trained_bytes = trained * (own if lora is None else 4)
    weights = (shape.decoder + shape.tower) * own + (0 if lora is None else trained_bytes)
    no_reference = lora is not None or not model.loss.kl_coefficient or settings.stage == "sft"
    kept = {
        "weights": weights / ranks,
        "optimizer (AdamW, two moments)": 2 * trained_bytes / ranks,
        "reference": 0 if no_reference else shape.decoder * own / ranks,
    }
    vllm = model.vllm.gpu_memory_utilization * gpu_gigabytes * GIB if model.engine == "vllm" else 0.0
    update = kept | {"vLLM": min(vllm, ASLEEP) if model.vllm.sleep else vllm}
    activations = activation_bytes(
        shape.text,
        max(model.pack_tokens, largest_group_tokens(settings)),
        computed,
        checkpointing=model.gradient_checkpointing,
        repeated=_prompt_repeats(settings),
        residual=computed if sharded else own,
        adapters=lora is not None,
    )
    backward = update | {
        "gradients": trained * 4 if settings.trainer.strategy == "fsdp2" and ranks > 1 else trained_bytes / ranks,
        "gradients before they are added up": 0 if lora is not None else _fresh_gradients(shape, computed, sharded),
        "gathered weights": (shape.head + shape.tower + AHEAD * shape.layer) * computed if sharded else 0,
        "buffers of gathering and reducing": AHEAD * shape.layer * (computed + 4) if sharded else 0,
        "activations": activations,
    }
    step = update | {"gradients": trained_bytes / ranks}  # AdamW is fused: no more
    native = (shape.decoder + shape.tower) * computed if sharded and model.engine == "native" else 0
    rollouts = kept | {"vLLM": vllm, "gathered weights": native}
    if model.engine == "native":
        rollouts["keys and values"] = _native_cache(settings, shape.text, computed, gpus)
    parts = {"update": backward, "optimizer step": step, "rollouts": rollouts}
    return {name: {what: size / GIB for what, size in sizes.items()} for name, sizes in parts.items()}


def _native_cache(settings: Namespace, text: PreTrainedConfig, size: int, gpus: int) -> int:
    """Keys and values of the completions that are decoded together, and of their prompts, which are there once."""
    model = settings.model
    together = min(max(model.rollout_rows // model.group_size, 1), math.ceil(settings.data.prompts_per_step / gpus))
    tokens = settings.data.grounding.max_prompt_tokens + model.group_size * model.sampling.max_tokens
    return together * tokens * token_bytes(text, size)


def token_bytes(text: PreTrainedConfig, size: int, gpus: int = 1) -> int:
    """Of a token's keys and values in all layers that attend, on each of the GPUs that share them, which have a head at least.
    Recurrent layers have a state in their place, which is not counted."""
    keys = attention_widths(text)[1] // min(gpus, text.num_key_value_heads)
    return 2 * keys * layer_kinds(text).count("full_attention") * size


def engine_problem(settings: Namespace, config: PreTrainedConfig, gpu_gigabytes: float) -> str | None:
    """Why vLLM could not start: its share of a GPU has to hold its part of the weights, the cache of the longest request, in
    training or evaluation, and what it computes with."""
    model, grounding, vllm = settings.model, settings.data.grounding, settings.model.vllm
    if model.engine != "vllm":
        return None
    prompts = max(grounding.max_prompt_tokens, grounding.evaluation_max_prompt_tokens)
    longest = vllm.max_model_len or prompts + max(model.sampling.max_tokens, model.evaluation_max_tokens)
    share, gpus, shape = vllm.gpu_memory_utilization * gpu_gigabytes, vllm.tensor_parallel_size, Shape.of(config)
    weights = (shape.tower + shape.decoder) * BYTES["bfloat16"] / gpus / GIB
    cache = longest * token_bytes(shape.text, BYTES["bfloat16"], gpus) / GIB
    if weights + cache + WORKING <= share:
        return None
    return (
        f"model.vllm.gpu_memory_utilization = {vllm.gpu_memory_utilization:g}: vLLM's share of {gpu_gigabytes:.0f} GiB is "
        f"{share:.1f}, and it needs {weights:.1f} for weights, {cache:.1f} for a request of {longest} tokens, and about "
        f"{WORKING:.0f} to compute with; raise it, or model.vllm.tensor_parallel_size"
    )


def savings(settings: Namespace, rollouts: bool = False) -> list[str]:
    """What of the settings would make the update, or rollouts, take less memory; those first that cost nothing but time."""
    model, strategy = settings.model, str(settings.trainer.strategy)
    engine = model.engine == "vllm"
    of_rollouts = {
        "a lower model.vllm.gpu_memory_utilization": engine,
        "a lower model.rollout_rows": model.engine == "native",
        "model.engine = vllm_server": True,
    }
    of_update = {
        "model.gradient_checkpointing = true": not model.gradient_checkpointing,
        "trainer.strategy = fsdp2_sync_each_pack": strategy == "fsdp2",
        "model.vllm.sleep = true": engine and not model.vllm.sleep,
        f"a model.pack_tokens below {model.pack_tokens}": model.pack_tokens > largest_group_tokens(settings),
        "smaller groups (model.sampling.max_tokens, model.group_size, data.grounding.max_prompt_tokens)": True,
    }
    of_both = {
        "trainer.strategy = fsdp2 on more GPUs": not strategy.startswith("fsdp2") and model.lora is None,
        "model.loss.kl_coefficient = 0": bool(model.loss.kl_coefficient) and model.lora is None,
        "more GPUs": strategy.startswith("fsdp2"),
        "model.lora, which trains adapters alone": model.lora is None,
    }
    return [what for what, helps in ((of_rollouts if rollouts else of_update) | of_both).items() if helps]


def largest_group_tokens(settings: Namespace) -> int:
    model = settings.model
    return largest_group(model.group_size, model.sampling.max_tokens, settings.data.grounding.max_prompt_tokens)


def _prompt_repeats(settings: Namespace) -> float:
    """How many keys the attention of the largest group makes for each of its tokens, at most: completions have the prompt's
    in front of their own."""
    rows, model = settings.model.group_size, settings.model
    keys = rows * (settings.data.grounding.max_prompt_tokens + model.sampling.max_tokens)
    return keys / largest_group_tokens(settings) if model.attention == "shared_prefix" else 0.0


def _fresh_gradients(shape: Shape, size: int, sharded: bool) -> int:
    """Of the head, and of a layer, while the backward pass is in the layers. The head's waits for that of the embeddings where
    they are tied, and in FSDP2's root."""
    head = shape.text.vocab_size * shape.text.hidden_size
    return (head + shape.layer if sharded else head * shape.tied) * size


def activation_bytes(
    text: PreTrainedConfig,
    tokens: int,
    size: int,
    *,
    checkpointing: bool,
    repeated: float = 0.0,
    residual: int | None = None,
    adapters: bool = False,
) -> float:
    """Of a pack of so many tokens, with numbers of `size` bytes: what stays of each layer, and on top the larger of what is
    made in the backward pass of one and in that of the head. With checkpointing only a layer's input stays, and the rest is
    made again.

    Args:
        repeated: keys that the attention of a group makes for each of its tokens.
        residual: bytes of the numbers between layers; None: `size`.
        adapters: low-rank ones are trained, which keep the inputs of all linear layers in a precision of their own.
    """
    d, i, (queries, keys) = text.hidden_size, text.intermediate_size, attention_widths(text)
    kept = (5 * i + 16 * d + 2.5 * queries) if adapters else (4 * i + 9 * d + 3.5 * queries)
    kept += 2 * keys * repeated + (3 * (queries + keys) if text.model_type.startswith("qwen3") else 0)  # norms of heads
    recurrent = (4 * i + 9 * d) * size + 34 * _rule_width(text)  # transformers' reference of the rule, in float32
    insides = [tokens * (recurrent if kind == "linear_attention" else kept * size) for kind in layer_kinds(text)]
    extra = tokens * 2 * i * size
    logits = HEAD_CHUNK * text.vocab_size * 4 * 3.25  # float32, three times, and which of them are -inf
    head = max(logits, 0 if adapters else 3 * text.vocab_size * d * size)  # a chunk's gradient, and the sum before and after
    if checkpointing:
        return text.num_hidden_layers * tokens * d * (residual or size) + max(max(insides) + extra, head)
    return sum(insides) + max(extra, head)
