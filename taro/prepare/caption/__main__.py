"""Dense captions for the videos of a samples file, from a model, or from files: see --help, and docs/data.md.

Each video is cut into overlapping windows, and the model is asked for the timed events of each; what it says is checked and
put together. What is done is kept in G.captions/: the same command goes on after a stop, and asks again about videos that
failed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from taro.command_line import answer_at_once, parse_settings, underscored
from taro.prepare.commands import CAPTION

if __name__ == "__main__":
    answer_at_once(CAPTION, underscored(sys.argv[1:]))  # before the imports that take seconds

from taro.data.before_run import look_for_videos
from taro.data.samples import load_samples, save_like
from taro.errors import clean_exit
from taro.evaluation.questions import describe_model
from taro.files import write_text
from taro.jsonl import ResumableFolder, Shard
from taro.messages import list_problems
from taro.models.prompt import PromptBuilder
from taro.prepare.caption.answers import ask_engine, caption_videos
from taro.prepare.caption.endpoint import EndpointCaptioner, write_message
from taro.prepare.caption.imported import import_captions
from taro.prepare.caption.report import CaptionedVideo, CaptionReport, make_report, print_report
from taro.prepare.caption.settings import PLACEHOLDER, CaptionError, CaptionSettings, find_problems
from taro.prepare.caption.videos import SourceVideo, WindowReader, source_videos, video_id
from taro.progress import track_items
from taro.rollout.start import longest_prompt, resolve_device, resolve_dtype
from taro.rows import read_objects
from taro.video.geometry import PatchGeometry

logger = logging.getLogger(__name__)

NAME = "captions"  # of the file of videos that are done


def caption(settings: CaptionSettings) -> CaptionReport:
    """Fill the captions of all samples; write them and a report as soon as no video is missing.

    All samples of one video get the same captions, and none where the video failed.

    Raises:
        CaptionError: settings that can't work, all named, before anything is loaded; or an endpoint that refuses all requests.
        SampleError: rows that can't be read, or not one video is there.
        ResumeError: the output belongs to captions of another configuration.
        ModelError: not a Qwen-VL model.
        EngineError: vLLM is not installed, or can't run the model.
    """
    if problems := list(find_problems(settings)):
        raise CaptionError(list_problems("can't caption:", problems))
    samples = load_samples(settings.input, video_root=settings.video_root, bad_rows="keep")
    videos = source_videos(samples, settings.root)
    if settings.model is None:
        captioned = import_captions(settings, samples, videos)
    else:
        captioned = _ask_model(settings, videos)
    report = make_report(captioned, len(videos))
    if report.open == 0:
        captions = {video.id: video.captions for video in captioned}
        filled = [replace(sample, captions=captions[video_id(sample, settings.root)]) for sample in samples]
        save_like(filled, settings.output, settings.input, settings.video_root)
        text = json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"
        write_text(Path(settings.output).with_suffix(".report.json"), text)
    return report


def _ask_model(settings: CaptionSettings, videos: Sequence[SourceVideo]) -> list[CaptionedVideo]:
    """Have this shard's missing videos captioned; returns all that are done or failed then."""
    builder = None
    if settings.api_base is None:
        longest = longest_prompt(settings.max_prompt_tokens, settings.max_tokens, settings.engine, settings.vllm)
        builder = PromptBuilder(settings.model, settings.prompt.replace(PLACEHOLDER, "{query}"), longest)
    folder = ResumableFolder(settings.folder, _configuration(settings, videos, builder), Shard.parse(settings.shard), NAME)
    known = folder.read()
    todo = [video for video in folder.shard.of(videos) if video.id not in known or known[video.id]["failure"] is not None]
    if todo:
        paths = [video.path for video in videos]
        for remark in look_for_videos(paths, of=settings.input, folder=settings.root, setting="--video_root"):
            logger.warning(remark)
        geometry = PatchGeometry() if builder is None else builder.geometry
        write = partial(write_message, settings) if builder is None else builder.build
        requests = WindowReader(todo, settings.window, settings.overlap, settings.video, geometry, write).read(settings.workers)
        ask = EndpointCaptioner(settings).ask if builder is None else partial(ask_engine, settings, builder)
        done = track_items(caption_videos(requests, ask), NAME, len(todo), lambda video: video.failure is not None)
        folder.append(asdict(video) for video in done)
    folder.finish([video.id for video in videos])
    captioned = read_objects(CaptionedVideo, folder.read(), "video", complete=True)
    return [captioned[video.id] for video in videos if video.id in captioned]


def _configuration(settings: CaptionSettings, videos: Sequence[SourceVideo], builder: PromptBuilder | None) -> dict[str, Any]:
    """All that determines the captions. Where an endpoint is does not, nor how patient one is with it."""
    distinct = json.dumps([[video.id, video.duration] for video in videos])
    about: dict[str, Any] = {
        "videos": {"count": len(videos), "digest": hashlib.blake2b(distinct.encode(), digest_size=8).hexdigest()},
        "model": settings.model,
    }
    if builder is None:
        about |= {"engine": "endpoint", "frames": settings.endpoint.frames, "options": settings.endpoint.options}
    else:
        about |= {"model_files": describe_model(settings.model, builder.config), "engine": settings.engine}
        dtype = resolve_dtype(settings.dtype, resolve_device(settings.device))
        about |= {"dtype": dtype, "max_prompt_tokens": builder.max_tokens}
    names = ("window", "overlap", "prompt", "max_tokens", "repetition_penalty")
    video = asdict(settings.video)
    del video["timeout"]  # decides whether there are frames, not which
    return about | {name: getattr(settings, name) for name in names} | {"video": video}


def main(arguments: Sequence[str] | None = None) -> CaptionReport:
    return caption(parse(arguments))


def parse(arguments: Sequence[str] | None = None) -> CaptionSettings:
    """The settings that flags give. They may be written with dashes, too: --api-base."""
    return parse_settings(CaptionSettings, CAPTION, underscored(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    with clean_exit():
        settings = parse()
        report = caption(settings)
    print_report(report)
    if report.done == 0:
        sys.exit("error: no video has captions; the reasons are above")
    print(f"{settings.output} is written" if report.open == 0 else f"{report.open} videos are left to other shards")
    if report.open == 0:
        print(f"next: python -m taro.prepare.difficulty --input {settings.output} --output SCORED.jsonl --model NAME")
