"""Rollouts by a vLLM server on other GPUs: vLLM's own OpenAI-compatible server, its own endpoints and nothing of ours in it.

Start it before the training, with the training's `model.name_or_path`:

    VLLM_SERVER_DEV_MODE=1 vllm serve Qwen/Qwen3-VL-4B-Instruct --port 8000 --dtype bfloat16 --max-model-len 16384 \\
        --enable-scale-out --logprobs-mode processed_logprobs --limit-mm-per-prompt '{"image": 1, "video": 1}' \\
        --weight-transfer-config '{"backend": "nccl"}'

`VLLM_SERVER_DEV_MODE=1` serves the endpoints that take weights and reset caches: whoever reaches the port can use them, and
an API key does not guard them, so keep it inside the cluster. `--enable-scale-out` serves `/inference/v1/generate`, which takes
token ids and pixels. `--logprobs-mode` gives the log-probs of the distribution that is sampled from. The dtype is the one that
the policy computes in; the last line is not needed with `weights: folder`.

A prompt's video is sent once for its group where the server keeps videos. It does unless it is started with
`--mm-processor-cache-gb 0`, another type of that cache, or several engines or API servers behind one address: then the video is
sent with each completion.

What was not run: `weights: nccl` is written by vLLM's documented API and needs GPUs on both sides; tests run `folder`. A server
on a CPU (for tests) keeps a packed copy of a head that is tied to the embeddings, which vLLM doesn't renew when it reloads
weights: there, use a model without tied embeddings. Servers on GPUs are not concerned.

P prompt tokens.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from taro.models.prompt import Prompt
from taro.models.weights import Weight
from taro.ranges import PositiveFloat, PositiveInt
from taro.rollout.engine import EngineError, RolloutGroup, RolloutPrompt, SamplingSettings, require_room
from taro.rollout.prompt_check import SeamError, compare_values
from taro.rollout.vllm_prompts import (
    Drawn,
    EngineModel,
    make_rollout,
    render,
    sampling_parameters,
    vllm_is_installed,
)
from taro.rollout.vllm_videos import GroupVideo, ServerError, keeps_videos
from taro.rollout.vllm_weights import FolderWeights, NCCLWeights

NO_LOG_PROB = -9999.0  # what the server says where it has none


@dataclass(frozen=True)
class VLLMServerSettings:
    """A vLLM server that is running already; see taro/rollout/vllm_server.py for how to start it.

    Args:
        url: of the server.
        weights: how it gets the policy's: `nccl`, from GPU to GPU by vLLM's weight transfer; or `folder`, by files.
        folder: for `folder`: where they are written, by rank 0, for the server to read under the same path, e.g. in /dev/shm.
        timeout: seconds that a request, an update of the weights, or the server's return after a failure may take.
        check_every: generations from one full comparison of a prompt's pixels to the next; ids and grids are always compared.
        at_once: requests, one for each completion, that each rank has the server work on together.
        api_key_variable: environment variable that holds the server's API key, if it has one.
    """

    url: str = "http://localhost:8000"
    weights: Literal["nccl", "folder"] = "nccl"
    folder: str | None = None
    timeout: PositiveFloat = 600.0
    check_every: PositiveInt = 50
    at_once: PositiveInt = 64
    api_key_variable: str = "VLLM_API_KEY"


class VLLMServerEngine:
    """Samples with a vLLM server, whose weights are those of the last `sync`.

    Prompts are rendered here, by vLLM's own renderer, and compared with the trainer's; the server gets token ids and pixels
    and never a text or an image file. With several ranks all of them call `sync`: rank 0 alone talks about weights.

    Args:
        model: what is sampled from.
        settings: where the server is, and how it gets weights.

    Raises:
        EngineError: vLLM is not installed here, too, or the server can't be reached or was started for shorter prompts.
        ValueError: `folder` is missing.
    """

    is_policy = False

    def __init__(self, model: EngineModel, settings: VLLMServerSettings = VLLMServerSettings()) -> None:
        if not vllm_is_installed():
            raise EngineError(
                "the engine vllm_server reads prompts with vLLM, here, too: pip install -e '.[vllm]', or take the engine "
                "native"
            )
        self.model, self.settings = model, settings
        self.server = Server(settings)
        self._require_room_on_server()
        self.keeps_videos = keeps_videos(self.server)
        self.weights = make_weights(model, settings)
        self.renderer, self.positions_model = _start_renderer(model)
        self.generations = 0
        self.stale = True  # the server's weights are not known to be the policy's

    def _require_room_on_server(self) -> None:
        (served,) = self.server.ask("GET", "/v1/models")["data"][:1]
        if served["max_model_len"] < self.model.max_model_len:
            raise EngineError(
                f"the vLLM server at {self.settings.url} takes prompts and completions of {served['max_model_len']} tokens, "
                f"{self.model.max_model_len} are needed: start it with --max-model-len {self.model.max_model_len}"
            )

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt.

        Raises:
            SeamError: vLLM reads a prompt differently from the trainer.
            EngineError: the server failed, is gone, or took too long.
            ValueError: a constructed prefix that leaves no room for a token.
        """
        require_room(prompts, sampling)
        groups = dict(self.stream(prompts, sampling, len(prompts)))
        return [groups[number] for number in range(len(prompts))]

    def stream(
        self, prompts: Iterable[RolloutPrompt], sampling: SamplingSettings, at_once: int
    ) -> Iterator[tuple[int, RolloutGroup]]:
        """Groups as they are finished, with the numbers of their prompts; as many as `at_once` prompts are open, and the next
        is taken when one is done. Raises as `generate`."""
        if self.stale:
            raise EngineError("the server's weights are not the policy's: sync them first, and after a restart")
        self.generations += 1
        source = enumerate(prompts)
        open_groups: dict[int, tuple[RolloutPrompt, dict[int, Drawn]]] = {}
        asked: dict[Future[Drawn], tuple[str, int, int]] = {}  # request, prompt, completion
        pool, given_up = ThreadPoolExecutor(self.settings.at_once), threading.Event()
        try:
            while True:
                for number, prompt in itertools.islice(source, at_once - len(open_groups)):
                    open_groups[number] = (prompt, {})
                    video = self._video(number, prompt)
                    for row, (request, body) in enumerate(self._requests(prompt, sampling)):
                        asked[pool.submit(self._draw, body, video, given_up)] = (request, number, row)
                if not open_groups:
                    return
                for done in wait(asked, return_when=FIRST_COMPLETED).done:
                    drawn = done.result()
                    _, number, row = asked.pop(done)
                    prompt, finished = open_groups[number]
                    finished[row] = drawn
                    if len(finished) == len(prompt.seeds):
                        del open_groups[number]
                        yield number, make_rollout(prompt.prefixes, [finished[row] for row in range(len(finished))])
        finally:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
            if asked:  # given up in the middle
                self._abort([request for request, _, _ in asked.values()])
            pool.shutdown(wait=True)

    def _video(self, number: int, prompt: RolloutPrompt) -> GroupVideo:
        whole = number == 0 and (self.generations - 1) % self.settings.check_every == 0
        features = self._render(prompt.prompt, whole)
        return GroupVideo(prompt.prompt.input_ids.tolist(), features, self.keeps_videos and len(prompt.seeds) > 1)

    def _requests(self, prompt: RolloutPrompt, sampling: SamplingSettings) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the server is asked for each completion, but for the video, and the name of the request."""
        ids = prompt.prompt.input_ids.tolist()
        for prefix, seed in zip(prompt.prefixes, prompt.seeds, strict=True):
            request = uuid.uuid4().hex
            parameters = sampling_parameters(self.model, sampling, seed, len(prefix))
            yield request, {"request_id": request, "token_ids": [*ids, *prefix], "sampling_params": parameters}

    def _draw(self, body: dict[str, Any], video: GroupVideo, given_up: threading.Event) -> Drawn:
        (choice,) = video.ask(self.server, body, given_up)["choices"]
        if choice["finish_reason"] == "abort":  # by a server that is stopped, of what it is working on
            raise self.server.gone("it gave up a completion in the middle")
        if choice["finish_reason"] not in ("stop", "length"):
            raise EngineError(f"the vLLM server ended a completion with {choice['finish_reason']!r}")
        values = [place["logprob"] for place in choice["logprobs"]["content"]]
        values = [float("nan") if value == NO_LOG_PROB else value for value in values]
        return Drawn(choice["token_ids"], values, choice["finish_reason"] == "stop")

    def _abort(self, requests: list[str]) -> None:
        names = [f"generate-tokens-{request}" for request in requests]  # as the server calls them
        with contextlib.suppress(EngineError):  # a server that is gone works on nothing
            self.server.ask("POST", "/inference/v1/abort_requests", {"request_ids": names})

    def _render(self, prompt: Prompt, whole: bool) -> dict[str, Any]:
        """The video as the server takes it. vLLM's reading must be the trainer's: ids and grid, and if `whole` the pixels and
        the positions that the server will find, too."""
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

    def sync(self, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        """Have the server take over the policy's weights, and forget all that was computed with the old ones. Every rank calls
        it, and none is generating when it begins."""
        self.stale = True
        self.weights.barrier()
        steps = [
            lambda: self.weights.rank == 0 and self.server.ask("GET", "/health"),
            lambda: self.weights.send(self.server, named_parameters),
            lambda: self.weights.rank == 0 and self._reset_caches(),
        ]
        for step in steps:
            self.weights.agree(_failure(step))
        self.stale = False

    def _reset_caches(self) -> None:
        if not self.server.ask("POST", "/reset_prefix_cache")["success"]:
            raise EngineError("the vLLM server can't forget what it computed with the old weights: it is still generating")
        self.server.ask("POST", "/reset_mm_cache")
        self.server.ask("POST", "/reset_encoder_cache")

    def sleep(self) -> None:
        """Nothing to give back: the server's GPUs are its own."""

    def restart(self) -> None:
        """Wait for the server, which isn't ours to start, to be there again, with the weights of the next `sync`.

        Raises:
            EngineError: it is not back in time.
        """
        self.stale = True
        self.weights = make_weights(self.model, self.settings)
        end = time.monotonic() + self.settings.timeout
        while True:
            try:
                self.server.ask("GET", "/health", timeout=10.0)
                return
            except EngineError as error:
                if time.monotonic() > end:
                    raise EngineError(f"{error}; waited for it for {self.settings.timeout:g} s") from error
            time.sleep(1.0)


class Server:
    """Asks a server for things.

    Args:
        settings: its url, the longest that it may take, and the variable that holds its API key.
    """

    def __init__(self, settings: VLLMServerSettings) -> None:
        self.settings = settings

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None) -> dict[str, Any]:
        """The server's answer to one request, {} where it says nothing.

        Raises:
            EngineError: it can't be reached, fails, or takes too long.
        """
        url, seconds = self.settings.url.rstrip("/") + path, timeout or self.settings.timeout
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        if key := os.environ.get(self.settings.api_key_variable):
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                answer = response.read()
            return json.loads(answer) if answer else {}
        except urllib.error.HTTPError as error:
            message = "(its message broke off)"
            with contextlib.suppress(OSError, http.client.HTTPException):
                message = error.read()[:500].decode(errors="replace")
            raise ServerError(f"the vLLM server answers {method} {url} with {error.code}: {message}", error.code) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(getattr(error, "reason", error), TimeoutError):
                raise EngineError(
                    f"the vLLM server took more than {seconds:g} s for {method} {url}: raise model.vllm_server.timeout"
                ) from error
            raise self.gone(f"{type(error).__name__}: {error}") from error

    def gone(self, why: str) -> EngineError:
        """For a server that is not there, or no longer."""
        return EngineError(
            f"no vLLM server answers at {self.settings.url} ({why}): start it, or set model.vllm_server.url"
        )


def _failure(step: Callable[[], object]) -> EngineError | None:
    """What goes wrong in a step of a sync."""
    try:
        step()
    except EngineError as error:
        return error
    except Exception as error:
        return EngineError(f"the vLLM server did not take over the weights: {type(error).__name__}: {error}")
    return None


def make_weights(model: EngineModel, settings: VLLMServerSettings) -> FolderWeights | NCCLWeights:
    """What brings weights to the server."""
    if settings.weights == "nccl":
        return NCCLWeights(model.dtype, settings.url, settings.timeout)
    if settings.folder is None:
        raise ValueError("model.vllm_server.weights = folder needs model.vllm_server.folder, e.g. in /dev/shm")
    return FolderWeights(model.dtype, Path(settings.folder))


def _start_renderer(model: EngineModel) -> tuple[Any, Any]:
    """vLLM's renderer without an engine, and its model without weights: positions only need the model's config."""
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
        positions_model = kind.__new__(kind)
        positions_model.config = config.model_config.hf_config
        return renderer_from_config(config), positions_model
    except (ValueError, RuntimeError, OSError) as error:
        raise EngineError(f"vLLM can't read {model.name_or_path}: {error}") from error


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
        raise SeamError(f"vLLM reads a video of {count} frames as {len(begins)} runs of tokens")
    frames = MultiModalKwargsItems.from_hf_inputs(
        {"pixel_values": values["pixel_values_videos"], "image_grid_thw": torch.tensor([[1, height, width]] * count)},
        {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", torch.full((count,), height * width)),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        },
    )["image"]
    places = [PlaceholderRange(offset=place.offset + a, length=b - a) for a, b in zip(begins, ends, strict=True)]
    return "image", frames, places, [f"{name}-{number}" for number in range(count)]
