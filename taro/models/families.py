"""What differs between Qwen2.5-VL, Qwen3-VL and Qwen3.5, in one place: how a video is written into the prompt, where its tokens
sit in time, what its tower gives, and how the decoder is called."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from taro.errors import TaroError
from taro.video.geometry import CLIP_MEAN, CLIP_STD, PatchGeometry

VIDEO_SLOT = "<|vision_start|><|video_pad|><|vision_end|>"  # what both chat templates write for a video
VIDEO_TOKEN = "<|video_pad|>"
# Never sampled and never scored: the policy can't write a video.
PLACEHOLDERS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")

WANTED = "Give a folder or a hub name of a Qwen2.5-VL, Qwen3-VL or dense Qwen3.5 model."
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
SECONDS_FOR_HUB = 10.0

Mask = Tensor | BlockMask | None


class ModelError(TaroError):
    """The folder or hub name is not a model that TaRO can train."""


@dataclass(frozen=True)
class VideoLayout:
    """A video as the prompt sees it; N = T * h * w merged patches."""

    text: str  # stands for VIDEO_SLOT in the prompt, with N video tokens
    grids: tuple[tuple[int, int, int], ...]  # merged (t, h, w) of each run of video tokens
    interval: float  # temporal M-RoPE positions between temporal patches


class Qwen25VL:
    """One run of video tokens; time is in the positions, `tokens_per_second` of them a second."""

    model_type = "qwen2_5_vl"
    labels_times = False  # in the prompt's text
    recurrent = False  # has decoder layers that keep a state in place of keys and values
    image_mean = CLIP_MEAN
    image_std = CLIP_STD

    def layout(self, config: PreTrainedConfig, grid: tuple[int, int, int], timestamps: Tensor, fps: float) -> VideoLayout:
        """The layout of a video with `grid` (T, H, W) patches, sampled at `fps` frames a second."""
        vision = config.vision_config
        merge = vision.spatial_merge_size
        merged = (grid[0], grid[1] // merge, grid[2] // merge)
        pads = VIDEO_TOKEN * (merged[0] * merged[1] * merged[2])
        # The processors hand this number on in float32 and vLLM goes on in float64: now and then it decides a position.
        seconds_per_patch = torch.tensor(vision.temporal_patch_size / fps, dtype=torch.float32).item()
        return VideoLayout(VIDEO_SLOT.replace(VIDEO_TOKEN, pads), (merged,), seconds_per_patch * vision.tokens_per_second)

    def metadata(self, timestamps: Tensor, fps: float) -> dict[str, Any]:
        """What transformers' processor and vLLM make the same layout from: it reads the sampled rate, count * fps / total."""
        count = len(timestamps)
        return {"fps": fps, "total_num_frames": count, "duration": count / fps, "frames_indices": list(range(count))}

    def decode(
        self, decoder: PreTrainedModel, *, mask: Mask, deepstack: Sequence[Tensor], video_mask: Tensor | None, **inputs: Any
    ) -> Any:
        mapping = None if mask is None else {"full_attention": mask} if len(mask.shape) == 4 else mask
        return decoder(attention_mask=mapping, **inputs)


class Qwen3VL:
    """A run of video tokens for each temporal patch, after its time in words; deepstack features into the first layers."""

    model_type = "qwen3_vl"
    labels_times = True
    recurrent = False
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    def layout(self, config: PreTrainedConfig, grid: tuple[int, int, int], timestamps: Tensor, fps: float) -> VideoLayout:
        """`timestamps` (F,) seconds: each temporal patch is named by the mean of its first and last frame's."""
        vision = config.vision_config
        merge, frames = vision.spatial_merge_size, vision.temporal_patch_size
        h, w = grid[1] // merge, grid[2] // merge
        run = VIDEO_SLOT.replace(VIDEO_TOKEN, VIDEO_TOKEN * (h * w))
        times = timestamps.reshape(grid[0], frames)
        means = (times[:, 0] + times[:, -1]) / 2  # (T,)
        # The slot's own marks stay around all of them, as in transformers' processor since 5.10, and so in vLLM.
        runs = "".join(f"<{time:.1f} seconds>{run}" for time in means.tolist())
        return VideoLayout(VIDEO_SLOT.replace(VIDEO_TOKEN, runs), ((1, h, w),) * grid[0], 1.0)

    def metadata(self, timestamps: Tensor, fps: float) -> dict[str, Any]:
        """What transformers' processor and vLLM make the same layout from: a frame's time is its index / fps."""
        count = len(timestamps)
        return {"fps": 1.0, "total_num_frames": count, "duration": count / fps, "frames_indices": timestamps.tolist()}

    def decode(
        self, decoder: PreTrainedModel, *, mask: Mask, deepstack: Sequence[Tensor], video_mask: Tensor | None, **inputs: Any
    ) -> Any:
        features = list(deepstack) if deepstack else None
        return decoder(
            attention_mask=mask,
            visual_pos_masks=video_mask if features else None,
            deepstack_visual_embeds=features,
            **inputs,
        )


class Qwen35(Qwen3VL):
    """As Qwen3-VL, without deepstack; of four decoder layers one attends, and three are recurrent."""

    model_type = "qwen3_5"
    recurrent = True

    def decode(
        self, decoder: PreTrainedModel, *, mask: Mask, deepstack: Sequence[Tensor], video_mask: Tensor | None, **inputs: Any
    ) -> Any:
        if mask is not None and len(mask.shape) == 4:  # of a pack
            mask = {"full_attention": mask, "linear_attention": None}
        return decoder(attention_mask=mask, **inputs)


FAMILIES = {family.model_type: family for family in (Qwen25VL(), Qwen3VL(), Qwen35())}
Family = Qwen25VL | Qwen3VL | Qwen35


def _require_there(name_or_path: str) -> None:
    """transformers takes what is no folder for a hub name, and asks a hub that it can't reach for half a minute."""
    if Path(name_or_path).is_dir():
        return
    if not HUB_NAME.fullmatch(name_or_path):
        raise ModelError(f"{name_or_path!r}: there is no such folder. {WANTED}")
    if isinstance(try_to_load_from_cache(name_or_path, "config.json"), str):
        return
    missing = f"{name_or_path!r} is no folder here, and no model of the hub that is on this disk"
    if HF_HUB_OFFLINE:
        raise ModelError(f"{missing}; HF_HUB_OFFLINE forbids to ask the hub. {WANTED}")
    try:
        urlopen(Request(ENDPOINT, method="HEAD"), timeout=SECONDS_FOR_HUB).close()
    except HTTPError:
        return  # it has answered
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # the hub's own client may have other certificates
            raise ModelError(f"{missing}; the hub, {ENDPOINT}, can't be reached ({reason}). {WANTED}") from None


def load_config(name_or_path: str) -> tuple[PreTrainedConfig, Family]:
    """The config of a folder (or hub name) of one of the families, and its family.

    Raises:
        ModelError: no such folder or model, or one of another kind.
    """
    _require_there(name_or_path)
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name_or_path!r} has no readable config.json ({reason}). {WANTED}") from error
    family = FAMILIES.get(config.model_type)
    if family is None:
        allowed = f"{', '.join(FAMILIES)}: dense models with a vision tower"
        raise ModelError(f"{name_or_path!r} is a {config.model_type!r} model, allowed: {allowed}")
    if "sliding_attention" in (getattr(config.get_text_config(), "layer_types", None) or ()):
        raise ModelError(
            f"{name_or_path!r} has layers that see a sliding window alone, which are not supported: set use_sliding_window to "
            'false and all layer_types to "full_attention" in its config.json, if it was not trained with a window'
        )
    return config, family


def load_geometry(name_or_path: str, config: PreTrainedConfig, family: Family) -> PatchGeometry:
    """How the model cuts frames into patches; mean and std of the folder's preprocessor_config.json, if it has one."""
    vision = config.vision_config
    mean, std = family.image_mean, family.image_std
    found = cached_file(name_or_path, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    if found is not None:
        stored = json.loads(Path(found).read_text())
        mean, std = tuple(stored.get("image_mean", mean)), tuple(stored.get("image_std", std))
    return PatchGeometry(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, mean, std)


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer, with Qwen-VL's tokens and a chat template.

    Raises:
        ModelError: it is not there, or is another one.
    """
    remedy = "copy tokenizer.json, tokenizer_config.json and chat_template.jinja from the model that it was made from"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        placeholder_ids(tokenizer)
    except (OSError, ValueError, ModelError) as error:  # without its files transformers may make an empty one
        reason = " ".join(str(error).split())
        raise ModelError(f"{name_or_path!r} has no tokenizer of a Qwen-VL model ({reason}): {remedy}") from None
    if tokenizer.chat_template is None:
        raise ModelError(f"the tokenizer of {name_or_path!r} has no chat template: {remedy}")
    return tokenizer


def placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the vision tokens, which are suppressed alike in sampling and scoring."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in PLACEHOLDERS if token not in vocabulary]
    if missing:
        raise ModelError(f"the tokenizer lacks {missing}: it is not a Qwen-VL tokenizer")
    return [vocabulary[token] for token in PLACEHOLDERS]


def torch_dtype(name: str) -> torch.dtype:
    """float32, bfloat16 or float16 by name."""
    allowed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in allowed:
        raise ValueError(f"dtype {name!r}, allowed: {', '.join(allowed)}")
    return allowed[name]
