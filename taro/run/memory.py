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
    seen = computed if sharded else own  # by a pass: FSDP2 gathers weights in the precision of products
    waiting = 0 if lora is not None else _waiting_gradients(shape, seen, sharded)
    activations = activation_bytes(
        shape.text,
        max(model.pack_tokens, largest_group_tokens(settings)),
        computed,
        checkpointing=model.gradient_checkpointing,
        repeated=_prompt_repeats(settings),
        weights=seen,
        layer=shape.layer,
        adapters=lora is not None,
        waiting=waiting,
    )
    backward = update | {
        "gradients": trained * 4 if settings.trainer.strategy == "fsdp2" and ranks > 1 else trained_bytes / ranks,
        "gradients before they are added up": waiting,
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


def _waiting_gradients(shape: Shape, size: int, sharded: bool) -> int:
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
    weights: int | None = None,
    layer: int = 0,
    adapters: bool = False,
    waiting: int = 0,
) -> float:
    """Of a pack of so many tokens, whose products are computed in numbers of `size` bytes: what stays of each layer, and on top
    the larger of what is made in the backward pass of one and in that of the head. With checkpointing only a layer's input
    stays, and the rest is made again.

    Args:
        repeated: keys that the attention of a group makes for each of its tokens.
        weights: bytes of the numbers of weights and between layers; None: `size`. Others are cast for each product, and the
            copies are kept for its backward pass.
        layer: parameters of a layer, for those copies.
        adapters: low-rank ones are trained, and weights are not.
        waiting: bytes of gradients, counted elsewhere, that are there in the backward pass of layers and not yet in the head's.
    """
    weights = weights or size
    kept = _Kept(text, size, weights, adapters)
    d, head_weights = text.hidden_size, text.vocab_size * text.hidden_size
    copies = layer * size if weights != size else 0
    insides = [tokens * kept.of_layer(kind, repeated) + copies for kind in layer_kinds(text)]
    on_top = tokens * kept.on_top()
    embeddings = tokens * d * weights if adapters else 0  # which are asked for a gradient, so that layers have one
    chunk = HEAD_CHUNK * text.vocab_size * 4  # of logits, in float32
    cast = head_weights * size if weights != size else 0
    if adapters:
        head = 3.25 * chunk + cast  # three times, and which of them are -inf
    else:  # three times, beside the gradient of chunks before; or a chunk's gradient, and the sum before and after
        head = max(3 * chunk + cast + head_weights * weights, 3 * head_weights * weights)
    head += tokens * d * kept.norm  # the last one
    if checkpointing:
        inputs = text.num_hidden_layers * tokens * d * weights
        again = tokens * d * weights if weights == 4 else 0  # the input of a layer is what its first norm keeps
        return inputs + embeddings + max(max(insides) - again + on_top, head - waiting)
    return sum(insides) + embeddings + max(on_top, head - waiting)


@dataclass(frozen=True)
class _Kept:
    """Bytes that a token's numbers take for the backward pass of a layer, by what keeps them."""

    text: PreTrainedConfig
    size: int  # bytes of what products are computed in
    weights: int  # of weights, and of what is between layers
    adapters: bool

    @property
    def newest(self) -> bool:
        return self.text.model_type.startswith("qwen3_5")

    @property
    def norm(self) -> int:
        """Of each number that is normalized: itself in float32, and for the gradient of its scale when it is normalized, in
        float32 (Qwen3.5) or as it came."""
        scaled = 4 if self.newest else self.weights
        return 4 + (0 if self.adapters else scaled)

    def readers(self, linear_layers: int) -> int:
        """Of each input of so many linear layers: all keep one, or each its own where they cast it, as adapters do."""
        return self.size * (linear_layers if self.adapters or self.weights != self.size else 1)

    def of_layer(self, kind: str, repeated: float) -> float:
        d, i = self.text.hidden_size, self.text.intermediate_size
        mlp = d * (self.norm + self.readers(2)) + 4 * i * self.size  # gate, its SiLU, what it is multiplied with, the product
        if kind == "linear_attention":
            return mlp + d * (self.norm + self.readers(4)) + self._rule()
        return mlp + d * (self.norm + self.readers(3)) + self._attention(repeated)

    def on_top(self) -> int:
        """When the most is there. In the backward pass of the MLP: the gradient of the layer's output, of the product, and of a
        factor. With adapters sooner, while a layer is made again: the gradient, cast and scaled for the last adapter, which is
        making the copy of its input in float32; that input, what came out of its linear layer, and what its MLP began with."""
        d, i = self.text.hidden_size, self.text.intermediate_size
        if not self.adapters:
            return d * self.weights + 2 * i * self.size
        gradient = self.weights + self.size
        gradient += self.size if self.weights != self.size else 0
        began = self.weights + (self.weights if self.weights < 4 else 0)  # normalized, and before: in float32 a norm keeps it
        return d * (gradient + self.size + began) + i * (self.size + 4)

    def _attention(self, repeated: float) -> float:
        """Rotated queries, the attention's output by groups and put together; rotated keys and values, and those of prompts and
        completions put together for each completion. Queries are rotated as weights are, and cast."""
        queries, keys = attention_widths(self.text)
        kept = queries * (self.weights + 2 * self.size) + keys * (self.weights + self.size) + 2 * keys * repeated * self.size
        kept += queries * self.size if self.weights != self.size else 0
        if self.text.model_type.startswith("qwen3"):  # heads are normalized
            kept += (queries + keys) * self.norm
        return kept + (2 * queries * self.size if self.newest else 0)  # the gate, and what is gated

    def _rule(self) -> float:
        """transformers' reference of the recurrence, in float32, whose products are computed in `size` bytes, for which it
        makes copies. Queries and keys are repeated for all value heads; tokens are taken in chunks. flash-linear-attention's
        kernels keep less."""
        text, chunk, low = self.text, 64, self.size < 4
        heads, key_size, value_size = text.linear_num_value_heads, text.linear_key_head_dim, text.linear_value_head_dim
        channels = 2 * text.linear_num_key_heads * key_size + heads * value_size
        convolution = 2 * channels * self.size  # its input and output
        # Float32: queries and keys as given, and normalized and padded; queries before they are scaled; keys that are solved
        # for. For products: queries and keys twice, of which two times one with its decay; keys that are solved for.
        keys = heads * key_size * (6 * 4 + (7 * self.size if low else 3 * 4))
        # Float32: values padded, and solved for; in the gated norm its input, the gate and the gate's SiLU. For products: new
        # values twice; in the norm what is normalized, scaled, and gated.
        values = heads * value_size * (5 * 4 + (2 * self.size if low else 4) + 3 * self.weights)
        # Decays and the system that is solved, in float32; the products that both are multiplied with, and what is read within
        # a chunk.
        pairs = heads * chunk * (2 * 4 + 3 * self.size)
        states = heads * key_size * value_size / chunk * (4 + (2 * self.size if low else 0))  # after each chunk, and two copies
        return convolution + keys + values + pairs + states
