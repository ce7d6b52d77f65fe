"""What the speed benchmarks work on: models with random weights of several sizes, a prompt with a video of given length, and a
stopwatch for the phases of a step."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from taro.models.attention import SHARED_PREFIX
from taro.models.families import FAMILIES
from taro.models.positions import mrope_positions
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL
from taro.models.tower_attention import attend_to_segments
from taro.rl.usage import read_clock
from taro.synthetic.architecture import CLASSES, with_memory
from taro.video.geometry import PatchGeometry
from taro.video.load import Video


@dataclass(frozen=True)
class ModelShape:
    """Sizes of decoder and tower."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tower_hidden: int
    tower_intermediate: int
    tower_heads: int
    tower_depth: int
    tied: bool = True  # embeddings and head


SHAPES = {
    "tiny": ModelShape(256, 1024, 6, 8, 2, 704, 128, 256, 4, 2),  # 6 M parameters
    "small": ModelShape(512, 2048, 8, 8, 2, 8192, 256, 512, 4, 4),
    "3b": ModelShape(2048, 11008, 36, 16, 2, 151936, 1280, 3420, 16, 32),  # Qwen2.5-VL-3B
    "3b_4_layers": ModelShape(2048, 11008, 4, 16, 2, 151936, 1280, 3420, 16, 4),
    "7b": ModelShape(3584, 18944, 28, 28, 4, 152064, 1280, 3420, 16, 32, tied=False),  # Qwen2.5-VL-7B
}
SPECIAL = 5  # the first ids of a vocabulary stand for the vision tokens


def build_config(shape: ModelShape, family: str) -> PreTrainedConfig:
    head = shape.hidden // shape.heads
    sections = [head // 4, head // 8, head // 8]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 32768,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": shape.tied,
        "initializer_range": shape.hidden**-0.5,  # large enough that attention matters to the outputs
    }
    vision = {
        "hidden_size": shape.tower_hidden,
        "intermediate_size": shape.tower_intermediate,
        "num_heads": shape.tower_heads,
        "depth": shape.tower_depth,
        "out_hidden_size": shape.hidden,
    }
    special = {"vision_start_token_id": 0, "vision_end_token_id": 1, "image_token_id": 3, "video_token_id": 4}
    if family == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [shape.tower_depth - 1], "tokens_per_second": 2, "patch_size": 14}
        text["rope_parameters"] = rope
    else:
        vision |= {"patch_size": 16, "num_position_embeddings": 2304}
        text |= {"head_dim": head, "rope_parameters": rope | {"mrope_interleaved": True}}
    if family == "qwen3_vl":
        vision["deepstack_visual_indexes"] = [0]
    if family == "qwen3_5":
        text |= {"linear_num_key_heads": shape.heads // 2, "linear_num_value_heads": shape.heads}
        text |= {"linear_key_head_dim": head, "linear_value_head_dim": head}
    return CLASSES[family][0](text_config=text, vision_config=vision, tie_word_embeddings=shape.tied, **special)


def build_policy(size: str, family: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> QwenVL:
    """Random weights; the tower is frozen."""
    config = build_config(SHAPES[size], family)
    torch.manual_seed(0)
    with torch.device(device):
        model = with_memory(CLASSES[family][1]._from_config(config, dtype=dtype))
    model.set_attn_implementation({"text_config": SHARED_PREFIX, "vision_config": "sdpa"})
    attend_to_segments(model.model.visual)
    vision, kind = config.vision_config, FAMILIES[family]
    geometry = PatchGeometry(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size,
                             kind.image_mean, kind.image_std)  # fmt: skip
    policy = QwenVL(model, kind, geometry, list(range(SPECIAL))).to(device).eval()
    policy.freeze_tower()
    return policy


@contextmanager
def use_attention(policy: QwenVL, name: str) -> Iterator[None]:
    """In the decoder, in place of `shared_prefix`."""
    policy.model.set_attn_implementation({"text_config": name, "vision_config": "sdpa"})
    attend_to_segments(policy.tower)
    try:
        yield
    finally:
        policy.model.set_attn_implementation({"text_config": SHARED_PREFIX, "vision_config": "sdpa"})
        attend_to_segments(policy.tower)


def build_prompt(policy: QwenVL, tokens: int, frames: int, merged: tuple[int, int] | None = None) -> Prompt:
    """A prompt of about `tokens` tokens with a video of random pixels at 2 frames a second: `merged` (h, w) tokens for each
    temporal patch, or as many as make nine tenths of the prompt."""
    geometry, family, generator = policy.geometry, policy.family, torch.Generator().manual_seed(0)
    patches = frames // geometry.temporal_patch_size
    if merged is None:
        height = max(1, round((0.9 * tokens / patches) ** 0.5))
        merged = height, max(1, round(0.9 * tokens / patches / height))
    shape = (frames, 3, merged[0] * geometry.factor, merged[1] * geometry.factor)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    times = torch.arange(frames, dtype=torch.float64) / 2
    layout = family.layout(policy.model.config, geometry.grid(shape), times, 2.0)
    video = [torch.ones(t * h * w, dtype=torch.bool) for t, h, w in layout.grids]
    gap = torch.zeros(6, dtype=torch.bool)  # text between runs of video tokens, where the family has it
    runs = [part for run in video for part in (gap, run)]
    tail = torch.zeros(max(8, tokens - sum(len(part) for part in runs)), dtype=torch.bool)
    video_mask = torch.cat([*runs, tail])  # (P,)
    vocabulary = policy.model.config.text_config.vocab_size
    text = torch.randint(SPECIAL, vocabulary, (len(video_mask),), generator=generator)
    input_ids = torch.where(video_mask, policy.model.config.video_token_id, text)
    positions = mrope_positions(video_mask, layout.grids, layout.interval)
    return Prompt(input_ids, positions, video_mask, Video(pixels, times, 2.0, frames / 2)).to(policy.device)


@dataclass
class Phases:
    """Seconds, tokens and peak memory of the phases of a step. The tower's time is taken out of whatever phase it runs in, and
    so is that of the prompt's pass in a rollout."""

    policy: QwenVL
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    peak: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # GiB above the start of the step
    nested: float = 0.0

    def __post_init__(self) -> None:
        self.base = current_memory(self.policy.device)

    @contextmanager
    def phase(self, name: str, tokens: int = 0) -> Iterator[None]:
        reset_peak(self.policy.device)
        start, self.nested = self.now(), 0.0
        yield
        self.seconds[name] += self.now() - start - self.nested
        self.tokens[name] += tokens
        self.peak[name] = max(self.peak[name], peak_memory(self.policy.device) - self.base)

    def now(self) -> float:
        return read_clock(self.policy.device)

    @contextmanager
    def watching(self, *models: nn.Module) -> Iterator[Phases]:
        """Take the time of these models' towers and prefills apart."""
        towers = {id(model.model.visual): model.model.visual for model in models}
        hooks = [hook for tower in towers.values() for hook in self._watch(tower, lambda inputs: "video")]
        for model in models:
            hooks += self._watch(model.model.language_model, lambda inputs: self._prefill(inputs))
        yield self
        for hook in hooks:
            hook.remove()

    def _prefill(self, inputs: dict) -> str | None:
        """A pass over several tokens that fills a cache."""
        embeds = inputs.get("inputs_embeds")
        return "prefill" if inputs.get("use_cache") and embeds is not None and embeds.shape[1] > 1 else None

    def _watch(self, module: nn.Module, name_of) -> list:
        started = []

        def before(_module, _args, kwargs):
            started.append((name_of(kwargs), self.now()))

        def after(_module, args, kwargs, _output):
            name, start = started.pop()
            if name is None:
                return
            spent = self.now() - start
            self.seconds[name] += spent
            self.nested += spent
            if name == "video":
                self.tokens[name] += len(args[0] if args else kwargs["hidden_states"]) // 4
            else:
                self.tokens[name] += kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """GiB since `reset_peak`: of tensors on a GPU, of the whole process on a CPU (Linux)."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else _process_memory("VmHWM")


def current_memory(device: torch.device) -> float:
    """GiB now, freed memory given back first."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    ctypes.CDLL(None).malloc_trim(0)
    return _process_memory("VmRSS")


def _process_memory(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 2**20


def random_completions(policy: QwenVL, group: int, length: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = policy.model.config.text_config.vocab_size
    return list(torch.randint(SPECIAL, vocabulary, (group, length), generator=generator).to(policy.device))
