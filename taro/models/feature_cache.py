"""Features of a frozen vision tower kept on disk: each video is encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor, nn

from taro.cache import TensorCache, tensor_bytes
from taro.models.qwen_vl import VisionFeatures
from taro.video.frame_cache import file_identity, video_key
from taro.video.geometry import PatchGeometry
from taro.video.load import VideoSettings


def weights_fingerprint(tower: nn.Module) -> str:
    """A digest of names, dtypes, shapes and values of all parameters and buffers; the same on every device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in chain(tower.named_parameters(), tower.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


class FeatureCache:
    """Features of one tower, whose weights and dtype must not change once features were asked for."""

    def __init__(self, cache: TensorCache, tower: nn.Module, geometry: PatchGeometry) -> None:
        self.cache, self.tower, self.geometry = cache, tower, geometry

    @cached_property
    def fingerprint(self) -> str:
        """Of the tower, computed once.

        Raises:
            ValueError: the tower is being trained.
        """
        if any(parameter.requires_grad for parameter in self.tower.parameters()):
            raise ValueError("features can be kept for a frozen tower only: freeze it first")
        return weights_fingerprint(self.tower)

    def features(
        self,
        path: str,
        clip: tuple[float, float] | None,
        settings: VideoSettings,
        frames: Tensor,
        compute: Callable[[], VisionFeatures],
    ) -> VisionFeatures:
        """The kept features of a video, or else those that `compute` gives, which are kept unless there is no file at `path`.

        `frames` (F, 3, H, W) uint8 are those to be encoded. They may be older than the file, so they count too.
        """
        identity = file_identity(path)
        if identity is None:
            return compute()
        shown = {"file": identity, "frames": hashlib.blake2b(tensor_bytes(frames), digest_size=16).hexdigest()}
        device = next(self.tower.parameters()).device
        precise = not torch.is_autocast_enabled(device.type)
        precision = "as the weights" if precise else str(torch.get_autocast_dtype(device.type))
        tower = {"tower": self.fingerprint, "precision": precision}
        key = video_key("features", path, clip, settings, self.geometry, **shown, **tower)
        kept = self.cache.get(key)
        if kept is not None:
            embeds, *deepstack = (kept[str(number)] for number in range(len(kept)))
            return VisionFeatures(embeds, tuple(deepstack)).to(device)
        features = compute()
        tensors = (features.embeds, *features.deepstack)
        self.cache.put(key, {str(number): tensor for number, tensor in enumerate(tensors)})
        return features
