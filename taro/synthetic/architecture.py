"""Configs and tokenizer of the tiny models: transformers' own classes, with small numbers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from taro.models.families import PLACEHOLDERS
from taro.prompts import format_spans, full_path
from taro.synthetic.world import ACTIONS, COLORS, SHAPES
from taro.video.load import VideoSettings

CLASSES = {
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    "qwen3_5": (Qwen3_5Config, Qwen3_5ForConditionalGeneration),
}
FAMILIES = tuple(CLASSES)
TINY_PROMPT = "When does this happen: {query}?"
TINY_VIDEO = VideoSettings(fps=2.0, max_frames=64, max_tokens=112, min_tokens_per_frame=4, resize="torch")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 704  # more than all bytes, the world's words as one token each, and the special tokens need
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *PLACEHOLDERS)


def build_tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE with Qwen2's pre-tokenizer (each digit apart): any NFC text survives a round trip."""
    empty = Qwen2Tokenizer(vocab={}, merges=[])
    trained = empty.train_new_from_iterator(_corpus(), vocab_size=VOCABULARY - len(SPECIAL_TOKENS), show_progress=False)
    tokenizer = Qwen2Tokenizer(
        vocab=trained.backend_tokenizer.get_vocab(with_added_tokens=False),
        merges=_merges(trained),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _corpus() -> Iterator[str]:
    """The world's sentences: every word often enough to become one token."""
    from taro.data.samples import Caption

    rng = random.Random(0)
    for color, shape, action in itertools.product(COLORS, SHAPES, ACTIONS):
        query = f"the {color} {shape} {action}"
        start = rng.randrange(200) / 10
        end = start + rng.randrange(1, 90) / 10
        yield TINY_PROMPT.format(query=query) + "\nassistant\nuser\nsystem\n"
        yield full_path(query, [Caption(start, end, query)], format_spans([(start, end)]))
        yield f"<{start:.1f} seconds>"


def _merges(tokenizer: Qwen2Tokenizer) -> list[tuple[str, str]]:
    import json

    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) for merge in merges]


def build_config(family: str, tokenizer: Qwen2Tokenizer, layers: int = 4) -> PreTrainedConfig:
    """The config of a tiny model of this family, whose decoder has so many layers."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    special = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": layers,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
        "tie_word_embeddings": True,
    }
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "depth": 2, "out_hidden_size": 96}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 4, 4]}
    if family == "qwen2_5_vl":
        vision |= {"patch_size": 14, "tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **special)
    if family == "qwen3_vl":
        vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": 32, "rope_parameters": rope | {"mrope_interleaved": True}}
        return Qwen3VLConfig(text_config=text, vision_config=vision, **special)
    if family == "qwen3_5":
        vision |= {"patch_size": 16, "num_position_embeddings": 64}
        text |= {"head_dim": 32, "rope_parameters": rope | {"mrope_interleaved": True, "partial_rotary_factor": 1.0}}
        text |= {"linear_num_key_heads": 1, "linear_num_value_heads": 2, "full_attention_interval": min(layers, 4)}
        text |= {"linear_key_head_dim": 64, "linear_value_head_dim": 64}  # vLLM's CPU kernels know 64 and 128
        return Qwen3_5Config(text_config=text, vision_config=vision, **special)
    raise ValueError(f"family = {family!r}, allowed: {', '.join(FAMILIES)}")


def build_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model with random weights, the same for the same seed; torch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return with_memory(CLASSES[config.model_type][1](config))


def with_memory(model: PreTrainedModel) -> PreTrainedModel:
    """Recurrent layers, where a model has them, with steps as Gated DeltaNet begins with them (arXiv 2412.06464); transformers'
    are so large that such a layer forgets nearly all with each token."""
    for module in model.modules():
        if hasattr(module, "dt_bias"):
            step = torch.empty_like(module.dt_bias).uniform_(math.log(0.001), math.log(0.1)).exp()
            module.dt_bias.data = step.expm1().log()  # the step is the softplus of it
    return model


def save_random(folder: str | Path, family: str, seed: int = 0, layers: int = 4) -> Path:
    """Write a whole model folder with random weights (for tests and for the recipe's start)."""
    folder = Path(folder)
    tokenizer = build_tokenizer()
    config = build_config(family, tokenizer, layers)
    build_model(config, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_preprocessor(folder, config)
    return folder


def write_preprocessor(folder: str | Path, config: PreTrainedConfig) -> None:
    """The preprocessor_config.json that transformers' processors and vLLM read."""
    import json

    from taro.models.families import FAMILIES as by_type

    family, vision = by_type[config.model_type], config.vision_config
    name = "Qwen2_5_VLProcessor" if config.model_type == "qwen2_5_vl" else "Qwen3VLProcessor"
    settings = {
        "processor_class": name,
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "image_mean": list(family.image_mean),
        "image_std": list(family.image_std),
    }
    Path(folder, "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
