"""What both vLLM engines share: the model as they have to know it, how a prompt is read and compared, how completions are
asked for, and what becomes of them.

G completions of a prompt, C_i tokens of completion i.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from taro.models.families import Family, placeholder_ids
from taro.models.patches import frames_to_patches
from taro.models.prompt import Prompt, PromptBuilder
from taro.rollout.engine import RolloutGroup, SamplingSettings
from taro.rollout.prompt_check import compare_ids, compare_values
from taro.video.geometry import PatchGeometry

SUPPRESSED = -100.0  # added to the logits of vision tokens; vLLM takes no less


def vllm_is_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True)
class EngineModel:
    """What an engine has to know of the model."""

    name_or_path: str
    family: Family
    geometry: PatchGeometry
    end_ids: frozenset[int]  # tokens that end a completion
    suppressed_ids: tuple[int, ...]  # tokens that are never drawn
    max_model_len: int  # prompt and completion
    dtype: str
    device: str  # cpu or cuda

    @classmethod
    def of(cls, builder: PromptBuilder, *, max_model_len: int, dtype: str, device: str) -> EngineModel:
        """The model that a prompt builder builds for."""
        suppressed = tuple(placeholder_ids(builder.tokenizer))
        return cls(
            builder.name_or_path, builder.family, builder.geometry, builder.end_ids, suppressed, max_model_len, dtype, device
        )


@dataclass(frozen=True)
class Drawn:
    """One completion as vLLM gives it, without its prefix."""

    token_ids: Sequence[int]
    log_probs: Sequence[float]
    finished: bool


def sampling_parameters(model: EngineModel, sampling: SamplingSettings, seed: int, prefix: int) -> dict[str, Any]:
    """Arguments of vLLM's SamplingParams for a completion that starts with `prefix` tokens."""
    return {
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "seed": seed % 2**63,
        "repetition_penalty": sampling.repetition_penalty,
        "max_tokens": sampling.max_tokens - prefix,
        "logprobs": 0,  # the drawn token's
        "logit_bias": dict.fromkeys(model.suppressed_ids, SUPPRESSED),
        "stop_token_ids": list(model.end_ids),
        "ignore_eos": True,  # of the generation config: the ends are ours
        "detokenize": False,
    }


def render(renderer: Any, model: EngineModel, prompt: Prompt, pixels: bool) -> dict[str, Any]:
    """vLLM's own reading of a prompt, which must be the trainer's: its token ids and grid, and if `pixels` those, too.

    Raises:
        PromptMismatch: vLLM reads it differently.
    """
    video = prompt.video
    metadata = model.family.metadata(video.timestamps, video.fps)
    frames = video.frames.permute(0, 2, 3, 1).cpu().numpy()  # (F, H, W, 3)
    (rendered,) = renderer.render_cmpl(
        [
            {
                "prompt_token_ids": list(prompt.unexpanded_ids),
                "multi_modal_data": {"video": [(frames, metadata | {"do_sample_frames": False})]},
                "mm_processor_kwargs": {"do_resize": False, "do_sample_frames": False},
            }
        ]
    )
    compare_ids(rendered["prompt_token_ids"], prompt.input_ids.tolist())
    (item,) = rendered["mm_kwargs"]["video"]
    values, geometry = item.get_data(), model.geometry
    compare_values("grid", values["video_grid_thw"].flatten(), torch.tensor(geometry.grid(tuple(video.frames.shape))))
    if pixels:
        patches = values["pixel_values_videos"]
        if patches.dtype == torch.uint8:  # vLLM's model normalises them, with mean and std of the folder
            geometry = replace(geometry, image_mean=(0.0,) * 3, image_std=(1 / 255,) * 3)
        compare_values("pixels", patches, frames_to_patches(video.frames.cpu(), geometry))
    return rendered


def make_rollout(prefixes: Sequence[tuple[int, ...]], drawn: Sequence[Drawn]) -> RolloutGroup:
    """The completions of one prompt, prefixes included."""
    completions, log_probs = [], []
    for prefix, one in zip(prefixes, drawn, strict=True):
        completions.append(torch.tensor([*prefix, *one.token_ids]))
        log_probs.append(torch.tensor([float("nan")] * len(prefix) + list(one.log_probs), dtype=torch.float32))
    return RolloutGroup(tuple(completions), tuple(log_probs), tuple(one.finished for one in drawn))
