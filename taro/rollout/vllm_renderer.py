"""A prompt as a vLLM server takes it: token ids, and the video as pixels with their places. It is read here, by vLLM's own
renderer, and compared with what the trainer reads.

P prompt tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from taro.models.prompt import Prompt
from taro.rollout.engine import EngineError
from taro.rollout.prompt_check import PromptMismatch, compare_values
from taro.rollout.vllm_prompts import EngineModel, render


class VideoRenderer:
    """vLLM's renderer without an engine, and its model without weights: positions only need the model's config.

    Args:
        model: whose prompts are read.

    Raises:
        EngineError: vLLM can't read the model's folder.
    """

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.model_loader import get_model_cls
        from vllm.renderers import renderer_from_config

        try:
            config = EngineArgs(
                model.name_or_path,
                dtype=model.dtype,
                max_model_len=model.max_model_len,
                limit_mm_per_prompt={"image": 0, "video": 1},
                mm_processor_cache_gb=0,  # a prompt is rendered once for its group
            ).create_engine_config()
            kind = get_model_cls(config.model_config)
            self.positions_model = kind.__new__(kind)
            self.positions_model.config = config.model_config.hf_config
            self.renderer = renderer_from_config(config)
        except (ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM can't read {model.name_or_path}: {error}") from error

    def render(self, prompt: Prompt, whole: bool) -> dict[str, Any]:
        """The video as the server takes it. vLLM's reading must be the trainer's: ids and grid, and if `whole` the pixels and
        the positions that the server will find, too.

        Raises:
            PromptMismatch: it is another one.
        """
        from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

        rendered = render(self.renderer, self.model, prompt, pixels=whole)
        modality, items, places, hashes = _contiguous(rendered)
        if whole:
            compare_values("positions", self._positions(modality, items, places, prompt), prompt.position_ids.cpu())
        return {
            "mm_hashes": {modality: hashes},
            "mm_placeholders": {modality: [{"offset": place.offset, "length": place.length} for place in places]},
            "kwargs_data": {modality: [encode_mm_kwargs_item(item) for item in items]},
        }

    def _positions(self, modality: str, items: Sequence[Any], places: Sequence[Any], prompt: Prompt) -> Tensor:
        """(3, P) M-RoPE positions by vLLM's model."""
        from vllm.multimodal.inputs import MultiModalFeatureSpec

        features = [
            MultiModalFeatureSpec(data=item, modality=modality, identifier="", mm_position=place)
            for item, place in zip(items, places, strict=True)
        ]
        return self.positions_model.get_mrope_input_positions(prompt.input_ids.tolist(), features)[0]


def _contiguous(rendered: dict[str, Any]) -> tuple[str, Sequence[Any], Sequence[Any], list[str]]:
    """The video as items that each stand for one unbroken run of tokens: modality, items, places and hashes.

    The server is told where an item begins and how long it is, not which of the tokens there are pixels. Qwen3-VL has text
    between its frames. Its tower sees each (temporal) frame by itself, and its positions count each by itself, so the frames
    are sent as images, at the places of the video's tokens: the same features at the same positions.
    """
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange

    (item,), (place,) = rendered["mm_kwargs"]["video"], rendered["mm_placeholders"]["video"]
    (name,) = rendered["mm_hashes"]["video"]
    if place.is_embed is None:
        return "video", [item], [place], [name]
    values = item.get_data()
    count, height, width = values["video_grid_thw"].flatten().tolist()
    edges = torch.nn.functional.pad(place.is_embed.int(), (1, 1)).diff()
    begins, ends = torch.nonzero(edges == 1)[:, 0].tolist(), torch.nonzero(edges == -1)[:, 0].tolist()
    if len(begins) != count:
        raise PromptMismatch(f"vLLM reads a video of {count} frames as {len(begins)} runs of tokens")
    frames = MultiModalKwargsItems.from_hf_inputs(
        {"pixel_values": values["pixel_values_videos"], "image_grid_thw": torch.tensor([[1, height, width]] * count)},
        {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", torch.full((count,), height * width)),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        },
    )["image"]
    places = [PlaceholderRange(offset=place.offset + a, length=b - a) for a, b in zip(begins, ends, strict=True)]
    return "image", frames, places, [f"{name}-{number}" for number in range(count)]
