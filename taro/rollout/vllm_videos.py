"""A prompt's video on its way to a vLLM server: once for the group where the server keeps videos.

vLLM keeps what a request brings (`--mm-processor-cache-gb`, 4 by default) and finds it again by its hash for a request that
says the hash alone. It can't be asked whether it still has one: a request for a video that is gone fails with the status 500.
"""

from __future__ import annotations

import threading
from typing import Any

from taro.rollout.engine import EngineError

GENERATE = "/inference/v1/generate"


class ServerError(EngineError):
    """A vLLM server that answers with an error.

    Args:
        message: for the user.
        status: of HTTP.
    """

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


class GroupVideo:
    """The video of one group, whose requests are made by several threads.

    Args:
        prompt_ids: the prompt's tokens.
        features: the video as the server takes it: hashes, places and pixels.
        once: bring it by a request of its own, after which the group's requests name it.
    """

    def __init__(self, prompt_ids: list[int], features: dict[str, Any], once: bool) -> None:
        self.prompt_ids, self.features, self.once = prompt_ids, features, once
        self.named = features | {"kwargs_data": {kind: [None] * len(data) for kind, data in features["kwargs_data"].items()}}
        self.lock, self.there = threading.Lock(), False

    def ask(self, server: Any, body: dict[str, Any], given_up: threading.Event) -> dict[str, Any]:
        """The server's answer to one request of the group.

        Raises:
            EngineError: as `server.ask`, or the group was given up while the video was on its way.
        """
        if self.once:
            self._bring(server, given_up)
            try:
                return server.ask("POST", GENERATE, body | {"features": self.named})
            except ServerError as error:
                if error.status != 500:  # the video may have made room for others
                    raise
        return server.ask("POST", GENERATE, body | {"features": self.features})

    def _bring(self, server: Any, given_up: threading.Event) -> None:
        """Send the video with a request for one token: its prompt is computed for the whole group, too, which finds it
        in the prefix cache."""
        with self.lock:
            if given_up.is_set():
                raise EngineError("the group was given up")
            if not self.there:
                parameters = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
                body = {"token_ids": self.prompt_ids, "features": self.features, "sampling_params": parameters}
                server.ask("POST", GENERATE, body)
                self.there = True
