"""What `python -m taro.prepare.caption` can be told, and what of it can't work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from taro.jsonl import ResumeError, Shard, file_problems
from taro.rollout.http_client import read_key
from taro.rollout.start import engine_problems
from taro.rollout.vllm import VLLMSettings
from taro.video.load import VideoSettings

PLACEHOLDER = "{seconds}"
DEFAULT_CAPTION_PROMPT = """\
This video is {seconds} seconds long. List everything that happens in it as atomic events: one action of one subject each, \
in the order in which they start.

Write one line for each event, with its start and its end in seconds from the beginning of this video (0.0 to {seconds}), \
in this form:
From 1.5s to 4.0s, a man opens a door.
From 3.0s to 6.5s, a dog runs through the kitchen.

Name only what can be seen. Write no event twice, and nothing but these lines. If nothing happens at all, write: No events."""


@dataclass(frozen=True)
class EndpointSettings:
    """How an OpenAI-compatible endpoint is asked.

    Args:
        frames: how they are sent: `images`, JPEGs with the time of each before it, or `video`, an MP4 of them.
        timeout: seconds that one answer may take.
        retries: further attempts after one that failed, timed out or gave no timed event.
        backoff: seconds before the first of them; each next one waits twice as long, a minute at most.
        options: further fields of each request, e.g. {"max_completion_tokens": 1024}; null leaves out one of ours.
    """

    frames: Literal["images", "video"] = "images"
    timeout: float = 300.0
    retries: int = 3
    backoff: float = 2.0
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class CaptionSettings:
    """Dense captions for all videos of a samples file, from a model, or from files with --captions or --captions_key.

    Args:
        input: samples, JSON lines.
        output: the same samples with `captions` filled. Beside F.jsonl come F.report.json, and F.captions/ with what is done
            so far.
        video_root: folder that relative video paths start from; the input's own unless given.
        model: folder or hub name of a Qwen2.5-VL or Qwen3-VL model; with `api_base`, the name that the endpoint knows.
        engine: what generates: `native`, or `vllm`.
        api_base: asks an OpenAI-compatible endpoint in place of an engine, e.g. http://localhost:8000/v1.
        api_key_variable: environment variable that holds its key, if it wants one.
        captions: no model, but a folder with a JSON file for each video, or one JSON file {video id: [[start, end, text],
            ...]}.
        captions_key: no model, but this key of the input's rows; those of all rows of a video are put together.
        captions_clock: what imported times of a clip count from: the start of the `clip`, or of the `file`.
        window: seconds of video that are asked about at a time, at most.
        overlap: seconds that a window shares with the next.
        prompt: the request after the window's frames; {seconds} is the window's length.
        video: which frames of a window are taken, and how large.
        max_prompt_tokens: longer prompts are refused.
        max_tokens: of an answer.
        repetition_penalty: above 1 keeps weak models from repeating themselves; decoding is greedy.
        batch_size: windows worked on at once.
        workers: processes that decode videos ahead.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        vllm: settings of that engine.
        endpoint: how `api_base` is asked.
        shard: `i/n` captions the i-th of n parts, i from 0, for one process on each GPU or machine; the last one to finish
            writes the output of all.
    """

    input: str
    output: str
    video_root: str | None = None
    model: str | None = None
    engine: Literal["native", "vllm"] = "native"
    api_base: str | None = None
    api_key_variable: str | None = None
    captions: str | None = None
    captions_key: str | None = None
    captions_clock: Literal["clip", "file"] = "clip"
    window: float = 30.0
    overlap: float = 5.0
    prompt: str = DEFAULT_CAPTION_PROMPT
    video: VideoSettings = field(default_factory=VideoSettings)
    max_prompt_tokens: int = 7168
    max_tokens: int = 1024
    repetition_penalty: float = 1.0
    batch_size: int = 16
    workers: int = 2
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    vllm: VLLMSettings = field(default_factory=lambda: VLLMSettings(gpu_memory_utilization=0.9))
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    shard: str | None = None

    @property
    def root(self) -> Path:
        """The folder that relative video paths start from."""
        return Path(self.input).parent if self.video_root is None else Path(self.video_root)

    @property
    def imports(self) -> bool:
        """Whether captions come from files, so that no model is asked."""
        return self.captions is not None or self.captions_key is not None

    @property
    def folder(self) -> Path:
        """The folder with what is done so far."""
        return Path(self.output).with_suffix(".captions")

    @property
    def report_path(self) -> Path:
        return Path(self.output).with_suffix(".report.json")

    @property
    def api_key(self) -> str | None:
        return read_key(self.api_key_variable)


def list_problems(settings: CaptionSettings) -> list[str]:
    """All that can't work, each with the flag to change."""
    return [*_files(settings), *_source(settings), *_numbers(settings), *_endpoint(settings), *_engine(settings)]


def _files(settings: CaptionSettings) -> Iterator[str]:
    resumed = not settings.imports and settings.folder.exists()
    return file_problems(settings.input, settings.output, settings.video_root, resumed=resumed)


def _source(settings: CaptionSettings) -> Iterator[str]:
    given = [name for name in ("model", "captions", "captions_key") if getattr(settings, name) is not None]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none of them"
        yield f"captions come from one of --model, --captions and --captions_key; got {got}"
    if settings.captions is not None and not Path(settings.captions).exists():
        yield f"--captions {settings.captions}: no such file or folder"
    try:
        Shard.parse(settings.shard)
    except ResumeError as error:
        yield str(error)
    if settings.imports and settings.shard is not None:
        yield "--shard: imported captions need no shards; leave it out"
    if settings.imports and settings.api_base is not None:
        yield "--api_base: asks a model, imported captions need none; leave it out"


def _numbers(settings: CaptionSettings) -> Iterator[str]:
    if not settings.window > 0:
        yield f"--window {settings.window}: must be above 0"
    elif not 0 <= settings.overlap < settings.window:
        yield f"--overlap {settings.overlap}: must be at least 0 and less than --window {settings.window}"
    least = {"max_prompt_tokens": 1, "max_tokens": 1, "batch_size": 1, "workers": 0, "endpoint.retries": 0}
    above = {"repetition_penalty": 0, "endpoint.timeout": 0, "endpoint.backoff": 0}
    for name, limit in (least | above).items():
        value = getattr(settings.endpoint, name[9:]) if name.startswith("endpoint.") else getattr(settings, name)
        if not (value >= limit if name in least else value > limit):
            yield f"--{name} {value}: must be {'at least' if name in least else 'above'} {limit}"
    if PLACEHOLDER not in settings.prompt:
        yield f"--prompt: must contain {PLACEHOLDER}, which stands for the window's length; got {settings.prompt!r}"
    if settings.video.backend == "decord" and importlib.util.find_spec("decord") is None:
        yield "--video.backend decord: is not installed; pip install decord, or take pyav"


def _endpoint(settings: CaptionSettings) -> Iterator[str]:
    if settings.api_base is not None and not _is_base(settings.api_base):
        # Not shown: it may hold a password.
        yield "--api_base: must be like http://localhost:8000/v1, without user, password or query; keys: --api_key_variable"
    variable = settings.api_key_variable
    if variable is None:
        return
    if settings.api_base is None:
        yield "--api_key_variable: names the key of an endpoint; give its --api_base, too"
    if not settings.api_key:
        yield f"--api_key_variable {variable}: the environment has no such variable, or an empty one"
    elif not (settings.api_key.isascii() and settings.api_key.isprintable()):
        yield f"--api_key_variable {variable}: its value has characters that no key has"


def _engine(settings: CaptionSettings) -> Iterator[str]:
    if settings.api_base is None and settings.model is not None:
        yield from engine_problems(settings.engine, settings.device)


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        return False
    secret = "@" in parts.netloc or parts.query
    return port_is_number and parts.scheme in ("http", "https") and bool(parts.hostname) and not secret
