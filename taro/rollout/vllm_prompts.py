"""What both vLLM engines share: the model as they have to know it, how a prompt is read and compared, how completions are
asked for, and what becomes of them.

G completions of a prompt, C_i tokens of completion i, P prompt tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taro.errors import TaroError
from taro.models.families import Family, placeholder_ids
from taro.models.prompt import Prompt, PromptBuilder
from taro.rollout.engine import RolloutGroup, SamplingSettings
from taro.video.geometry import PatchGeometry, frames_to_patches

SUPPRESSED = -100.0  # added to the logits of vision tokens; vLLM takes no less
# Of vLLM's engine and of a reader without one. Nothing is cached: a prompt is rendered once for its group.
READING = {"limit_mm_per_prompt": {"image": 0, "video": 1}, "mm_processor_cache_gb": 0}
TOLERANCE = 1e-5  # of pixels


class PromptMismatch(TaroError):
    """The engine and the trainer don't see the same prompt: nothing that is sampled could be learned from."""


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


class VideoItems(NamedTuple):
    """A prompt's video, in the parts that vLLM is given."""

    modality: str
    items: Sequence[Any]
    places: Sequence[Any]
    hashes: Sequence[str]


def whole_video(rendered: dict[str, Any]) -> VideoItems:
    """As vLLM's renderer makes it: one part."""
    return VideoItems("video", *(rendered[key]["video"] for key in ("mm_kwargs", "mm_placeholders", "mm_hashes")))


class PromptReader:
    """vLLM's own reading of prompts, compared with the trainer's; by an engine's renderer, or by one of its own."""

    def __init__(
        self, model: EngineModel, config: Any, renderer: Any = None, items: Callable[[Any], VideoItems] = whole_video
    ) -> None:
        from vllm.model_executor.model_loader import get_model_cls
        from vllm.renderers import renderer_from_config

        self.model, self.renderer, self.items = model, renderer or renderer_from_config(config), items
        kind = get_model_cls(config.model_config)
        self.positions_model = kind.__new__(kind)  # without weights: positions only need the config
        self.positions_model.config = config.model_config.hf_config

    def read(self, prompt: Prompt, whole: bool) -> dict[str, Any]:
        """vLLM's own reading, which must be the trainer's: its token ids and grid, and if `whole` pixels and positions, too.

        Raises:
            PromptMismatch: it is another one.
        """
        video, geometry = prompt.video, self.model.geometry
        rendered = self.render(prompt)
        _compare_ids(rendered["prompt_token_ids"], prompt.input_ids.tolist())
        (item,) = rendered["mm_kwargs"]["video"]
        values = item.get_data()
        _compare("grid", values["video_grid_thw"].flatten(), torch.tensor(geometry.grid(tuple(video.frames.shape))))
        if whole:
            patches = values["pixel_values_videos"]
            if patches.dtype == torch.uint8:  # vLLM's model normalises them, with mean and std of the folder
                geometry = replace(geometry, image_mean=(0.0,) * 3, image_std=(1 / 255,) * 3)
            _compare("pixels", patches, frames_to_patches(video.frames.cpu(), geometry))
            positions = self._positions(rendered["prompt_token_ids"], self.items(rendered))
            _compare("positions", positions, prompt.position_ids.cpu())
        return rendered

    def render(self, prompt: Prompt) -> dict[str, Any]:
        """vLLM's own reading, whatever it is."""
        video = prompt.video
        metadata = self.model.family.metadata(video.timestamps, video.fps) | {"do_sample_frames": False}
        frames = video.frames.permute(0, 2, 3, 1).cpu().numpy()  # (F, H, W, 3)
        request = {
            "prompt_token_ids": list(prompt.unexpanded_ids),
            "multi_modal_data": {"video": [(frames, metadata)]},
            "mm_processor_kwargs": {"do_resize": False, "do_sample_frames": False},
        }
        (rendered,) = self.renderer.render_cmpl([request])
        return rendered

    def _positions(self, ids: list[int], items: VideoItems) -> Tensor:
        """(3, P) M-RoPE positions by vLLM's model."""
        from vllm.multimodal.inputs import MultiModalFeatureSpec

        features = [
            MultiModalFeatureSpec(data=item, modality=items.modality, identifier="", mm_position=place)
            for item, place in zip(items.items, items.places, strict=True)
        ]
        return self.positions_model.get_mrope_input_positions(ids, features)[0].cpu()


def _compare_ids(engine: Sequence[int], trainer: Sequence[int]) -> None:
    if list(engine) == list(trainer):
        return
    place = next((i for i, (a, b) in enumerate(zip(engine, trainer, strict=False)) if a != b), min(len(engine), len(trainer)))
    near = slice(max(0, place - 3), place + 4)
    raise PromptMismatch(
        f"the engine expands a prompt to {len(engine)} tokens, the trainer to {len(trainer)}; the first difference is at "
        f"{place}: {list(engine[near])} against {list(trainer[near])}"
    )


def _compare(name: str, engine: Tensor, trainer: Tensor) -> None:
    if engine.shape != trainer.shape:
        raise PromptMismatch(f"{name}: the engine has the shape {tuple(engine.shape)}, the trainer {tuple(trainer.shape)}")
    differs = ~((engine.double() - trainer.double()).abs().flatten() <= TOLERANCE)
    if differs.any():
        place = int(differs.nonzero()[0])
        raise PromptMismatch(
            f"{name}: the first difference between engine and trainer is at {place} of {differs.numel()}: "
            f"{float(engine.flatten()[place])} against {float(trainer.flatten()[place])}"
        )


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


class Drawn(NamedTuple):
    """One completion as vLLM gives it, without its prefix."""

    token_ids: Sequence[int]
    log_probs: Sequence[float]
    finished: bool


def make_rollout(prefixes: Sequence[tuple[int, ...]], drawn: Sequence[Drawn]) -> RolloutGroup:
    """The completions of one prompt, prefixes included."""
    pairs = list(zip(prefixes, drawn, strict=True))
    return RolloutGroup(
        completions=tuple(torch.tensor([*prefix, *one.token_ids]) for prefix, one in pairs),
        log_probs=tuple(torch.tensor([float("nan")] * len(prefix) + list(one.log_probs)) for prefix, one in pairs),
        finished=tuple(one.finished for one in drawn),
    )
