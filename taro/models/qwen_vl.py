"""The policy: a transformers Qwen-VL model, with its vision tower and its decoder called apart.

N merged video patches, D hidden, B rows, L tokens of this call, K tokens with those of the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, Cache, PreTrainedModel

from taro.distributed import global_rank
from taro.models.attention import OWN, SHARED_PREFIX, leave_out_cudnn
from taro.models.families import (
    Family,
    Mask,
    ModelError,
    load_config,
    load_geometry,
    load_tokenizer,
    placeholder_ids,
    torch_dtype,
)
from taro.models.packing import Pack
from taro.models.recurrence import share_prompts
from taro.models.shared_prompts import SharedPrompts
from taro.models.tower_attention import attend_to_segments
from taro.models.weights import Weight, named_weights, parameters_on_meta, whole_weights
from taro.video.geometry import PatchGeometry, frames_to_patches


@dataclass(frozen=True)
class VisionFeatures:
    """What the tower says of one video. A pure function of its frames while the tower is frozen."""

    embeds: Tensor  # (N, D) in place of the video tokens
    deepstack: tuple[Tensor, ...] = ()  # (N, D) each, added after the first decoder layers (Qwen3-VL)

    def to(self, device: torch.device | str) -> VisionFeatures:
        return VisionFeatures(self.embeds.to(device), tuple(layer.to(device) for layer in self.deepstack))

    @classmethod
    def cat(cls, videos: Sequence[VisionFeatures]) -> VisionFeatures:
        """Of several videos in one sequence."""
        deepstack = zip(*(video.deepstack for video in videos), strict=True)
        return cls(torch.cat([video.embeds for video in videos]), tuple(torch.cat(layer) for layer in deepstack))


class QwenVL(nn.Module):
    """A model of one of the families.

    Args:
        model: the transformers model; saved and synced under its own names.
        family: what differs between them.
        geometry: how its frames are cut.
        suppressed_ids: tokens that get probability zero in sampling and scoring.
    """

    def __init__(self, model: PreTrainedModel, family: Family, geometry: PatchGeometry, suppressed_ids: list[int]) -> None:
        super().__init__()
        leave_out_cudnn()
        share_prompts(model.model.language_model)
        self.model, self.family, self.geometry = model, family, geometry
        self.register_buffer("suppressed_ids", torch.tensor(suppressed_ids, dtype=torch.long), persistent=False)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, dtype: str = "float32", attention: str = SHARED_PREFIX, *, weights: bool = True
    ) -> QwenVL:
        """Load a folder or hub name.

        Args:
            attention: `shared_prefix`, `flex`, or the name of one of transformers' own.
            weights: False: parameters are on the meta device, where they take no memory.

        Raises:
            ModelError: it is no model of a family, or its tokenizer or its weights are not there.
        """
        config, family = load_config(name_or_path)
        suppressed = placeholder_ids(load_tokenizer(name_or_path))
        own = attention in OWN  # of the decoder: the tower never sees a group
        attentions = {"text_config": attention, "vision_config": "sdpa" if own else attention}
        settings = {"dtype": torch_dtype(dtype), "attn_implementation": attentions}
        if weights:
            try:
                model = AutoModelForImageTextToText.from_pretrained(name_or_path, config=config, **settings)
            except (OSError, SafetensorError) as error:
                reason = " ".join(str(error).split())
                raise ModelError(f"{name_or_path!r} has no weights that can be read ({reason}): copy them again") from None
        else:
            with parameters_on_meta():
                model = AutoModelForImageTextToText.from_config(config, **settings)
        if own:
            attend_to_segments(model.model.visual)
        return cls(model.eval(), family, load_geometry(name_or_path, config, family), suppressed)

    @property
    def tower(self) -> nn.Module:
        return self.model.model.visual

    @property
    def decoder(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def attention(self) -> str:
        """The decoder's attention implementation."""
        return self.decoder.config._attn_implementation

    @property
    def device(self) -> torch.device:
        return self.suppressed_ids.device

    def freeze_tower(self) -> None:
        self.tower.requires_grad_(False)

    def frozen_copy(self) -> QwenVL:
        """A reference: its own copy of decoder and head, and this model's tower."""
        reference = copy.deepcopy(self, memo={id(self.tower): self.tower})
        reference.model.model.language_model.requires_grad_(False)
        reference.model.lm_head.requires_grad_(False)
        return reference.eval()

    def encode_video(self, frames: Tensor) -> VisionFeatures:
        """Features of a video, or of any whole temporal patches of it: frames (F, 3, H, W) uint8."""
        patches = frames_to_patches(frames, self.geometry)
        grid = torch.tensor([self.geometry.grid(frames.shape)], device=frames.device)  # (1, 3)
        output = self.tower(patches.to(self.tower.dtype), grid_thw=grid, return_dict=True)
        return VisionFeatures(output.pooler_output, tuple(getattr(output, "deepstack_features", None) or ()))

    def reencode_video(self, features: VisionFeatures, frames: Tensor, moved: Tensor) -> VisionFeatures:
        """Features of changed frames from those of the video before: the tower attends within one temporal patch, so only
        the patches with a moved frame are encoded again.

        Args:
            features: of the frames before the change.
            frames: (F, 3, H, W) uint8, after it.
            moved: (F,) bool, the frames that differ.
        """
        size = self.geometry.temporal_patch_size
        changed = moved.reshape(-1, size).any(dim=1).to(frames.device)  # (T,)
        if not changed.any():
            return features
        fresh = self.encode_video(frames.unflatten(0, (-1, size))[changed].flatten(0, 1))

        def merge(old: Tensor, new: Tensor) -> Tensor:
            by_patch = old.unflatten(0, (len(changed), -1)).clone()  # (T, h * w, D)
            by_patch[changed] = new.unflatten(0, (-1, by_patch.shape[1]))
            return by_patch.flatten(0, 1)

        deepstack = tuple(merge(old, new) for old, new in zip(features.deepstack, fresh.deepstack, strict=True))
        return VisionFeatures(merge(features.embeds, fresh.embeds), deepstack)

    def hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        attention_mask: Mask = None,
        features: VisionFeatures | None = None,
        video_mask: Tensor | None = None,
        cache: Cache | None = None,
        pack: Pack | None = None,
        prompts: SharedPrompts | None = None,
    ) -> Tensor:
        """The decoder's last hidden states, (B, L, D).

        Args:
            input_ids: (B, L).
            position_ids: (3, B, L) M-RoPE positions.
            attention_mask: None (causal), (B, K) bool over padding, (1, 1, L, K) bool, or a BlockMask with `flex` attention.
            features: of the videos, written where `video_mask` (B, L) is True; any other token is text, whatever its id.
            cache: keys and values so far; grows by L.
            pack: whose tokens these are; in place of its mask with `shared_prefix` attention, beside it with another.
            prompts: what rows see before what is in the cache, which the mask doesn't tell of; with attentions of OWN.
        """
        embeds = self.decoder.embed_tokens(input_ids)  # (B, L, D)
        if features is not None:
            embeds = embeds.masked_scatter(video_mask[..., None], features.embeds.to(embeds.dtype))
        return self.family.decode(
            self.decoder,
            inputs_embeds=embeds,
            position_ids=position_ids,
            mask=attention_mask,
            video_mask=video_mask,
            deepstack=features.deepstack if features is not None else (),
            past_key_values=cache,
            use_cache=cache is not None,
            pack=pack,
            prompts=prompts,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits, (..., V), of hidden states; the vision tokens' are -inf."""
        logits = self.model.lm_head(hidden).float()
        return logits.index_fill(-1, self.suppressed_ids, float("-inf"))

    def trained_weights(self) -> dict[str, nn.Parameter]:
        """What a checkpoint holds, by its names there; the rest can be loaded again from where it came from."""
        return {f"policy.{name}": parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def named_weights(self) -> Iterator[tuple[str, Weight]]:
        """The weights under transformers' names, with adapters where there are; tied ones once."""
        return named_weights(self.model)

    def save_pretrained(self, folder: str | Path, dtype: str | None = None) -> None:
        """Write config and weights as a transformers folder, adapters merged. Of a sharded model all ranks call this, and rank
        0 writes."""
        weights = {}
        for name, value in whole_weights(self.named_weights(), dtype and torch_dtype(dtype)):
            if global_rank() == 0:
                weights[name] = value.to("cpu")
        if global_rank() == 0:
            with torch.device("meta"):
                plain = type(self.model)(self.model.config)  # without adapters and shards
            plain.to(dtype=next(iter(weights.values())).dtype)
            plain.generation_config = self.model.generation_config
            plain.save_pretrained(folder, state_dict=weights)
