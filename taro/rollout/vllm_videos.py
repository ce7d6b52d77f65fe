"""A prompt's video on its way to a vLLM server: once for the group where the server keeps videos.

vLLM keeps what a request brings (`--mm-processor-cache-gb`, 4 by default) and finds it again by its hash for a request that
says the hash alone. It can't be asked whether it still has one: a request for a video that is gone fails with the status 500.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from typing import Any

import torch

from taro.rollout.engine import EngineError
from taro.rollout.vllm_prompts import PromptMismatch, VideoItems, whole_video

GENERATE = "/inference/v1/generate"


class ServerError(EngineError):
    """A vLLM server that answers with an error, which has a status of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def keeps_videos(server: Any) -> bool:
    """Whether a request may name a video that an earlier one brought. Without the cache such a request ends the server, and
    several engines behind one address each have their own."""
    try:
        config = server.ask("GET", "/server_info?config_format=json")["vllm_config"]
    except ServerError:  # it doesn't tell
        return False
    media, parallel = config["model_config"]["multimodal_config"], config["parallel_config"]
    alone = parallel["data_parallel_size"] == parallel["_api_process_count"] == 1
    return alone and media["mm_processor_cache_gb"] > 0 and media["mm_processor_cache_type"] == "lru"


def video_features(rendered: dict[str, Any]) -> dict[str, Any]:
    """The video of a prompt, as vLLM reads it, in the form that a server takes: hashes, places and pixels."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    modality, items, places, hashes = contiguous_items(rendered)
    return {
        "mm_hashes": {modality: hashes},
        "mm_placeholders": {modality: [{"offset": place.offset, "length": place.length} for place in places]},
        "kwargs_data": {modality: [encode_mm_kwargs_item(item) for item in items]},
    }


def contiguous_items(rendered: dict[str, Any]) -> VideoItems:
    """The video as items that each stand for one unbroken run of tokens.

    The server is told where an item begins and how long it is, not which of the tokens there are pixels. Qwen3-VL has text
    between its frames. Its tower sees each (temporal) frame by itself, and its positions count each by itself, so the frames
    are sent as images, at the places of the video's tokens: the same features at the same positions.
    """
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange

    video = whole_video(rendered)
    (item,), (place,), (name,) = video[1:]
    if place.is_embed is None:
        return video
    values = item.get_data()
    count, height, width = values["video_grid_thw"].flatten().tolist()
    edges = torch.nn.functional.pad(place.is_embed.int(), (1, 1)).diff()
    begins, ends = ((edges == sign).nonzero()[:, 0].tolist() for sign in (1, -1))
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
    return VideoItems("image", frames, places, [f"{name}-{number}" for number in range(count)])


class GroupVideo:
    """The video of one group, whose requests are made by the threads of a pool; none more once `given_up` is set."""

    def __init__(self, server: Any, features: dict[str, Any], given_up: threading.Event) -> None:
        self.server, self.features, self.given_up, self.sent = server, features, given_up, None
        self.named = features | {"kwargs_data": {kind: [None] * len(data) for kind, data in features["kwargs_data"].items()}}

    def send_first(self, pool: Executor, prompt_ids: list[int]) -> None:
        """Bring the video by a request for one token, after which the group's requests name it: its prompt is computed for
        the whole group, too, which finds it in the prefix cache."""
        parameters = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
        body = {"token_ids": prompt_ids, "features": self.features, "sampling_params": parameters}
        self.sent = pool.submit(self.server.ask, "POST", GENERATE, body)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to one request of the group.

        Raises:
            EngineError: as `server.ask`, also of the video's own request; or all was given up meanwhile.
        """
        if self.sent is not None:
            self.sent.result()
            if self.given_up.is_set():
                raise EngineError("the group was given up")
            try:
                return self.server.ask("POST", GENERATE, body | {"features": self.named})
            except ServerError as error:
                if error.status != 500:  # the video may have made room for others
                    raise
        return self.server.ask("POST", GENERATE, body | {"features": self.features})
