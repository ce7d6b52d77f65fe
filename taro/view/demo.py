"""The demo without its server: its settings and limits, the videos that it offers, and one answer as a page."""

from __future__ import annotations

import base64
import importlib.util
import mimetypes
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Literal

from taro.command_line import CONFIGS
from taro.data.samples import Sample, load_samples
from taro.messages import list_problems
from taro.models.settings import GroundingSettings
from taro.ranges import PositiveFloat, PositiveInt
from taro.rollout import VLLMSettings
from taro.synthetic.world import draw_scene, scene_samples, write_video
from taro.video.file import VideoError
from taro.video.header import read_duration
from taro.view.answer import Answer
from taro.view.grounder import Grounder, GrounderSettings
from taro.view.html import asset, escape, make_page, timeline_part, write_page
from taro.view.timeline import ViewError

TINY = CONFIGS.parent / "assets" / "tiny-qwen2.5-vl"
SCENES = (2_000_006, 2_000_011, 2_000_012)  # seeds of the synthetic videos that are offered
MOST_OFFERED = 20  # samples of a file
MOST_EMBEDDED = 32 * 2**20  # bytes of a video that a page carries along
# What demo.js shows beside a player where that is so.
UNPLAYABLE = """<p id="unplayable" class="taro" role="status">This browser can't play the video, so bars and times move no \
player. The model reads it all the same.</p>"""


@dataclass(frozen=True)
class DemoSettings:
    """Ask a model when something happens in a video.

    Args:
        model: folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model; the tiny one of assets/ unless given.
        engine: what generates: `native`, or `vllm`, whose text is not shown before it is whole.
        video: asked about without a server, together with `query` and `output`.
        query: what is to be found in it.
        output: the page that shows the answer.
        shuffle: show there, too, how much less likely each token gets when the frames around the answer are shuffled.
        annotations: samples file whose first videos are offered; a few synthetic ones unless given.
        video_root: folder of its videos; that of `annotations` unless given.
        host: address that the server listens at; others than this machine reach it by 0.0.0.0.
        port: of the server; the first free one from 7860 on unless given.
        share: make a link that anyone can open, through a server of Gradio's.
        max_upload_mb: largest file that may be uploaded, MB.
        max_minutes: longest video that is asked about.
        max_waiting: questions that may wait while another is answered.
        radius: frames within so many seconds of the answer's start or end are shuffled.
        max_tokens: of an answer with its reasoning.
        repetition_penalty: as in eval.py.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        vllm: settings of that engine.
        grounding: prompt and video settings; those in the model's folder unless given, or else the defaults.
    """

    model: str | None = None
    engine: Literal["native", "vllm"] = "native"
    video: str | None = None
    query: str | None = None
    output: str | None = None
    shuffle: bool = False
    annotations: str | None = None
    video_root: str | None = None
    host: str = "127.0.0.1"
    port: PositiveInt | None = None
    share: bool = False
    max_upload_mb: PositiveInt = 200
    max_minutes: PositiveFloat = 10.0
    max_waiting: PositiveInt = 16
    radius: PositiveFloat = 3.0
    max_tokens: PositiveInt = 1024
    repetition_penalty: PositiveFloat = 1.0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    vllm: VLLMSettings = field(default_factory=lambda: VLLMSettings(gpu_memory_utilization=0.9))
    grounding: GroundingSettings | None = None


def check(settings: DemoSettings) -> None:
    """Before a model is loaded.

    Raises:
        ViewError: settings that can't work, all of them named.
        VideoError: the video of `--video` can't be used.
    """
    problems = []
    alone = {name: getattr(settings, name) for name in ("video", "query", "output")}
    missing = [f"--{name}" for name, value in alone.items() if value is None]
    if 0 < len(missing) < len(alone):
        problems.append(f"without a server it needs --video, --query and --output: {' and '.join(missing)} are missing")
    elif missing and importlib.util.find_spec("gradio") is None:
        problems.append("the page needs Gradio: pip install -e '.[demo]'. Without it: --video V --query Q --output page.html")
    if missing and settings.shuffle:
        problems.append("--shuffle is for --output; in the browser there is a button")
    if settings.model is None and not TINY.is_dir():
        problems.append(f"--model: name one; the tiny model is in a checkout only ({TINY} is not there)")
    if problems:
        raise ViewError(list_problems("the demo can't start:", problems))
    if not missing:
        check_video(settings.video, settings.max_minutes)


def start_grounder(settings: DemoSettings) -> Grounder:
    """Raises as `Grounder`."""
    own = {one.name: getattr(settings, one.name) for one in fields(GrounderSettings)}
    return Grounder(**own | {"model": settings.model or str(TINY)})


def check_video(path: str, most_minutes: float) -> None:
    """
    Raises:
        VideoError: it can't be read.
        ViewError: it is too long.
    """
    minutes = read_duration(Path(path)) / 60
    if minutes > most_minutes:
        raise ViewError(
            f"{Path(path).name} is {minutes:.1f} minutes long, {most_minutes:g} are allowed: cut out a part of it, or raise "
            "--max_minutes"
        )


def explain(error: Exception) -> str:
    """An error as it is said to who has uploaded a file: without where the file lies here."""
    return str(error).replace(error.path, Path(error.path).name) if isinstance(error, VideoError) else str(error)


def offer_videos(settings: DemoSettings, folder: Path) -> list[Sample]:
    """Samples to pick from; their videos lie in `folder`, which is there.

    Raises:
        SampleError: rows of `--annotations` that can't be read.
        ViewError: not one of their videos can be asked about.
    """
    if settings.annotations is None:
        samples = []
        for number, seed in enumerate(SCENES, start=1):
            scene = draw_scene(seed)
            write_video(scene, folder / f"synthetic_{number}.mp4")
            samples += scene_samples(scene, str(folder / f"synthetic_{number}.mp4"))
        return samples
    found = load_samples(settings.annotations, video_root=settings.video_root, bad_rows="keep")
    unfit = cache(lambda video: _unfit(video, settings.max_minutes))
    offered, reasons = [], Counter()
    for sample in found:
        reason = "are clips of longer videos, which are not cut out here" if sample.clip is not None else unfit(sample.video)
        if reason is None:
            offered.append(sample)
        else:
            reasons[reason] += 1
        if len(offered) == MOST_OFFERED:
            break
    if not offered:
        said = "; ".join(f"{count} {reason}" for reason, count in reasons.items()) or "it names none"
        raise ViewError(f"--annotations {settings.annotations}: none of its videos can be offered: {said}")
    copies = {}
    for sample in offered:
        if sample.video not in copies:
            copies[sample.video] = _copy(sample.video, folder / str(len(copies)))
    return [replace(sample, video=copies[sample.video]) for sample in offered]


def _unfit(video: str, most_minutes: float) -> str | None:
    """Why this video of several is not offered."""
    if not Path(video).is_file():
        return "are not there: name their folder with --video_root"
    try:
        check_video(video, most_minutes)
    except VideoError:
        return "can't be read"
    except ViewError:
        return "are longer than --max_minutes"
    return None


def _copy(video: str, folder: Path) -> str:
    """In a folder of its own: the one that it comes from is nobody's to read."""
    folder.mkdir()
    return str(shutil.copy2(video, folder))


def write_answer(grounder: Grounder, settings: DemoSettings) -> tuple[Answer, str]:
    """Ask once, and write the page. The answer, and why it says nothing of shuffled frames where it should.

    Raises as `Grounder.ask`, and ViewError where it can't be written.
    """
    answer, missing = grounder.ask(settings.video, settings.query), ""
    if settings.shuffle:
        try:
            answer = grounder.gap(answer, radius=settings.radius)
        except ViewError as error:
            missing = f"not asked with shuffled frames: {error}"
    write_page(Path(settings.output), answer_page(answer, missing))
    return answer, missing


def answer_page(answer: Answer, missing: str = "") -> str:
    """The player, the timeline and the text, in one file, and what is `missing` there."""
    body = f"<h1>{escape(answer.query)}</h1>{_player(Path(answer.video))}{answer_part(answer)}"
    if missing:
        body += f'<p class="faint">{escape(missing)}</p>'
    return make_page(answer.query, body, {}, "demo")


def answer_part(answer: Answer, truths: Sequence[tuple[float, float]] = ()) -> str:
    """What a page shows of an answer."""
    said = [f"{len(answer.tokens)} tokens in {answer.seconds:.1f} s"]
    if not answer.spans:
        said.append("no span can be read in it" if answer.finished else "cut before an answer: raise --max_tokens")
    if answer.temporal_gap is not None:
        nats = f"{answer.temporal_gap:.2f}"
        likely = "as likely" if float(nats) == 0 else f"{nats.lstrip('-')} nats {'more' if '-' in nats else 'less'} likely"
        said.append(f"with shuffled frames a token of the reasoning is {likely} in the mean")
    return f'{timeline_part(answer.timeline(truths))}<p class="taro faint">{escape("; ".join(said))}</p>'


def _player(video: Path) -> str:
    """With the video inside, where it isn't too large for a page."""
    if video.stat().st_size > MOST_EMBEDDED:
        return f'<p class="faint">the video is not in this page: more than {MOST_EMBEDDED // 2**20} MB</p>'
    kind = mimetypes.guess_type(video.name)[0] or "video/mp4"
    return f'<video controls src="data:{kind};base64,{base64.b64encode(video.read_bytes()).decode()}"></video>{UNPLAYABLE}'


def scripts() -> str:
    """For the head of a page in which answers come and go."""
    return f"<script>{asset('timeline.js')}\n{asset('demo.js')}</script>"
