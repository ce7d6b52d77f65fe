"""Rollouts by a vLLM server on other GPUs: vLLM's own OpenAI-compatible server, its own endpoints and nothing of ours in it.
docs/rollouts.md has the command that starts it."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taro.distributed import gather, global_rank
from taro.models.weights import Weight
from taro.ranges import PositiveFloat, PositiveInt
from taro.rollout.engine import EngineError, RolloutGroup, RolloutPrompt, SamplingSettings, require_room
from taro.rollout.http_client import HTTPClient, RequestError
from taro.rollout.scheduler import collect_futures, run_jobs
from taro.rollout.vllm_prompts import (
    READING,
    Drawn,
    EngineModel,
    PromptReader,
    make_rollout,
    sampling_parameters,
    vllm_is_installed,
)
from taro.rollout.vllm_videos import GroupVideo, ServerError, contiguous_items, keeps_videos, video_features
from taro.rollout.vllm_weights import FolderWeights, NCCLWeights

NO_LOG_PROB = -9999.0  # what the server says where it has none


@dataclass(frozen=True)
class VLLMServerSettings:
    """A vLLM server that is running already; see docs/rollouts.md for how to start it.

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

    Raises:
        EngineError: vLLM is not installed here, too, or the server can't be reached or was started for shorter prompts.
        ValueError: `folder` is missing.
    """

    is_policy = False

    def __init__(self, model: EngineModel, settings: VLLMServerSettings = VLLMServerSettings()) -> None:
        if not vllm_is_installed():
            raise EngineError("the engine vllm_server needs vLLM here, too: pip install -e '.[vllm]', or take native")
        self.model, self.settings = model, settings
        self.server = Server(settings)
        (served,) = self.server.ask("GET", "/v1/models")["data"][:1]
        if served["max_model_len"] < model.max_model_len:
            raise EngineError(
                f"the vLLM server at {settings.url} takes prompts and completions of {served['max_model_len']} tokens, "
                f"{model.max_model_len} are needed: start it with --max-model-len {model.max_model_len}"
            )
        self.keeps_videos = keeps_videos(self.server)
        self.weights = self._make_weights()
        self.reader = _reader(model)
        self.generations = 0
        self.stale = True  # the server's weights are not known to be the policy's

    def _make_weights(self) -> FolderWeights | NCCLWeights:
        """What brings weights to the server."""
        if self.settings.weights == "nccl":
            return NCCLWeights(self.model.dtype, self.settings.url, self.settings.timeout)
        if self.settings.folder is None:
            raise ValueError("model.vllm_server.weights = folder needs model.vllm_server.folder, e.g. in /dev/shm")
        return FolderWeights(self.model.dtype, Path(self.settings.folder))

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt.

        Raises:
            PromptMismatch: vLLM reads a prompt differently from the trainer.
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
        pool, given_up, asked = ThreadPoolExecutor(self.settings.at_once), threading.Event(), set()

        def submit(number: int, prompt: RolloutPrompt) -> Iterator[Future[Drawn]]:
            whole = number == 0 and (self.generations - 1) % self.settings.check_every == 0
            video = GroupVideo(self.server, video_features(self.reader.read(prompt.prompt, whole)), given_up)
            ids = prompt.prompt.input_ids.tolist()
            if self.keeps_videos and len(prompt.seeds) > 1:
                video.send_first(pool, ids)
            for prefix, seed in zip(prompt.prefixes, prompt.seeds, strict=True):
                parameters = sampling_parameters(self.model, sampling, seed, len(prefix))
                yield pool.submit(self._draw, {"token_ids": [*ids, *prefix], "sampling_params": parameters}, video, asked)

        def give_up(_: object) -> None:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
            names = [f"generate-tokens-{request}" for request in list(asked)]  # as the server calls them
            with suppress(EngineError):  # a server that is gone works on nothing
                self.server.ask("POST", "/inference/v1/abort_requests", {"request_ids": names})

        jobs = run_jobs(prompts, at_once, submit=submit, collect=collect_futures, give_up=give_up)
        with pool, closing(jobs):
            for number, prompt, drawn in jobs:
                yield number, make_rollout(prompt.prefixes, drawn)

    def _draw(self, body: dict[str, Any], video: GroupVideo, asked: set[str]) -> Drawn:
        """One completion; its request is named in `asked` meanwhile."""
        request = uuid.uuid4().hex
        asked.add(request)
        try:
            (choice,) = video.ask(body | {"request_id": request})["choices"]
        finally:
            asked.discard(request)
        if choice["finish_reason"] == "abort":  # by a server that is stopped, of what it is working on
            raise self.server.gone("it gave up a completion in the middle")
        if choice["finish_reason"] not in ("stop", "length"):
            raise EngineError(f"the vLLM server ended a completion with {choice['finish_reason']!r}")
        values = [place["logprob"] for place in choice["logprobs"]["content"]]
        values = [float("nan") if value == NO_LOG_PROB else value for value in values]
        return Drawn(choice["token_ids"], values, choice["finish_reason"] == "stop")

    def sync(self, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        """Have the server take over the policy's weights, and forget all that was computed with the old ones. Every rank calls
        it, and none is generating when the weights go."""
        self.stale = True
        _on_all_ranks(lambda: global_rank() == 0 and self.server.ask("GET", "/health"))
        _on_all_ranks(lambda: self.weights.send(self.server, named_parameters))
        _on_all_ranks(lambda: global_rank() == 0 and self._reset_caches())
        self.stale = False

    def _reset_caches(self) -> None:
        if not self.server.ask("POST", "/reset_prefix_cache")["success"]:
            raise EngineError("the vLLM server can't forget what it computed with the old weights: it is still generating")
        self.server.ask("POST", "/reset_mm_cache")
        self.server.ask("POST", "/reset_encoder_cache")

    def sleep(self) -> None:
        """Nothing to give back: the server's GPUs are its own."""

    def close(self) -> None:
        """Nothing: the server goes on without us."""

    def restart(self) -> None:
        """Wait for the server, which isn't ours to start, to be there again, with the weights of the next `sync`.

        Raises:
            EngineError: it is not back in time.
        """
        self.stale = True
        self.weights = self._make_weights()
        end = time.monotonic() + self.settings.timeout
        while True:
            try:
                self.server.ask("GET", "/health", timeout=10.0)
                return
            except EngineError as error:
                if time.monotonic() > end:
                    raise EngineError(f"{error}; waited for it for {self.settings.timeout:g} s") from error
            time.sleep(1.0)


def _reader(model: EngineModel) -> PromptReader:
    """Reads as the server does, without an engine."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm.engine.arg_utils import EngineArgs

    try:
        settings = {"dtype": model.dtype, "max_model_len": model.max_model_len, **READING}
        config = EngineArgs(model.name_or_path, **settings).create_engine_config()
        return PromptReader(model, config, items=contiguous_items)
    except (ValueError, RuntimeError, OSError) as error:
        raise EngineError(f"vLLM can't read {model.name_or_path}: {error}") from error


def _on_all_ranks(step: Callable[[], object]) -> None:
    """Take a step of a sync, and raise on every rank what went wrong on one; none goes on before all have come here."""
    failure = None
    try:
        step()
    except EngineError as error:
        failure = error
    except Exception as error:
        failure = EngineError(f"the vLLM server did not take over the weights: {type(error).__name__}: {error}")
    messages = [message for message in gather(failure and str(failure)) if message is not None]
    if messages:
        raise EngineError(messages[0]) from failure


class Server:
    """The vLLM server, which is asked for things."""

    def __init__(self, settings: VLLMServerSettings) -> None:
        self.settings = settings
        self.client = HTTPClient(settings.url, settings.api_key_variable)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None) -> dict[str, Any]:
        """The server's answer to one request, {} where it says nothing.

        Raises:
            EngineError: it can't be reached, fails, or takes too long.
        """
        seconds = timeout or self.settings.timeout
        try:
            answer = self.client.ask(method, path, body, seconds=seconds)
            return json.loads(answer) if answer else {}
        except RequestError as error:
            asked = f"{method} {self.client.url(path)}"
            if error.late:
                why = f"the vLLM server took more than {seconds:g} s for {asked}: raise model.vllm_server.timeout"
                raise EngineError(why) from error
            if error.status is None:
                raise self.gone(str(error)) from error
            raise ServerError(f"the vLLM server answers {asked} with {error.status}: {error}", error.status) from error
        except ValueError as error:
            raise self.gone(f"{type(error).__name__}: {error}") from error

    def gone(self, why: str) -> EngineError:
        """The error of a server that is not there, or no longer."""
        return EngineError(f"no vLLM server answers at {self.settings.url} ({why}): start it, or set model.vllm_server.url")
