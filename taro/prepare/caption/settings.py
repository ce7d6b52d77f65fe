"""What `python -m taro.prepare.caption` can be told, and what of it can't work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from taro.errors import TaroError
from taro.prepare.paths import resumable_problems
from taro.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
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


class CaptionError(TaroError):
    """Captions can't be made as asked; nothing that was done before is lost."""


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
    timeout: PositiveFloat = 300.0
    retries: NonNegativeInt = 3
    backoff: PositiveFloat = 2.0
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class CaptionSettings:
    """Dense captions for all videos of a samples file, from a model, or from files with --captions or --captions_key.

    Args:
        input: samples, JSON lines.
        output: the same samples with `captions` filled. Beside F.jsonl come F.report.json, and F.captions/ with what is done
            so far.
        video_root: folder that relative video paths start from; the input's own unless given.
        model: folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model; with `api_base`, the name that the endpoint knows.
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
    window: PositiveFloat = 30.0
    overlap: NonNegativeFloat = 5.0
    prompt: str = DEFAULT_CAPTION_PROMPT
    video: VideoSettings = field(default_factory=VideoSettings)
    max_prompt_tokens: PositiveInt = 7168
    max_tokens: PositiveInt = 1024
    repetition_penalty: PositiveFloat = 1.0
    batch_size: PositiveInt = 16
    workers: NonNegativeInt = 2
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
    def folder(self) -> Path:
        """The folder with what is done so far."""
        return Path(self.output).with_suffix(".captions")


def find_problems(settings: CaptionSettings) -> Iterator[str]:
    """All that can't work, each with the flag to change."""
    paths = settings.input, settings.output, settings.video_root
    yield from resumable_problems(*paths, settings.shard, settings.folder if settings.model is not None else None)
    given = [name for name in ("model", "captions", "captions_key") if getattr(settings, name) is not None]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none of them"
        yield f"captions come from one of --model, --captions and --captions_key; got {got}"
    if settings.captions is not None and not Path(settings.captions).exists():
        yield f"--captions {settings.captions}: no such file or folder"
    if settings.model is None:
        for name in ("shard", "api_base"):
            if getattr(settings, name) is not None:
                yield f"--{name}: is of use with --model alone; leave it out"
    elif settings.api_base is None:
        yield from engine_problems(settings.engine, settings.device, settings.vllm)
    if settings.overlap >= settings.window:
        yield f"--overlap {settings.overlap}: must be less than --window {settings.window}"
    if PLACEHOLDER not in settings.prompt:
        yield f"--prompt: must contain {PLACEHOLDER}, which stands for the window's length; got {settings.prompt!r}"
    if settings.video.backend == "decord" and importlib.util.find_spec("decord") is None:
        yield "--video.backend decord: is not installed; pip install decord, or take pyav"
    if settings.api_base is not None and not _is_base(settings.api_base):
        # Not shown: it may hold a password.
        yield "--api_base: must be like http://localhost:8000/v1, without user, password or query; keys: --api_key_variable"
    if (variable := settings.api_key_variable) is not None:
        key = read_key(variable)
        if settings.api_base is None:
            yield "--api_key_variable: names the key of an endpoint; give its --api_base, too"
        if not (key and key.isascii() and key.isprintable()):
            yield f"--api_key_variable {variable}: the environment has no such variable, or one with characters that no key has"


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        return False
    secret = "@" in parts.netloc or parts.query
    return port_is_number and parts.scheme in ("http", "https") and bool(parts.hostname) and not secret
