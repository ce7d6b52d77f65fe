"""Whether a model is shown what training showed it, by all engines that are installed here:

    python -m taro.run.doctor --model outputs/tiny/hf [--video v.mp4 --query "a dog runs"] [--engine native] [--json F]

One video, which is made here unless it is given, goes through TaRO's own engine, transformers and vLLM; a line for each
thing that must be alike. Also taro-doctor. Exit status 0: all is right, 1: something is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taro.command_line import Parser, new_file
from taro.errors import TaroError, clean_exit
from taro.files import write_json
from taro.messages import list_problems
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.rollout import EngineError, EngineModel, VLLMEngine, VLLMSettings
from taro.rollout.start import engine_problems, load_model, resolve_device, resolve_dtype
from taro.rollout.vllm_prompts import vllm_is_installed
from taro.run.doctor_checks import (
    DIFFERS,
    NOT_INSTALLED,
    OK,
    Finding,
    check_budget,
    check_log_probs,
    check_placeholders,
    check_positions,
    check_processor,
)
from taro.run.doctor_readings import (
    DRAWN,
    Case,
    check_transformers_processor,
    check_vllm,
    never_drawn,
    our_log_probs,
    saved_processor,
    torchvision_is_installed,
    transformers_log_probs,
    transformers_positions,
)
from taro.synthetic.world import draw_scene, write_video
from taro.video.file import VideoFile
from taro.video.index import read_index
from taro.video.load import VideoSettings, load_video

COLORS = {OK: "green", DIFFERS: "red", NOT_INSTALLED: "yellow"}


class DoctorError(TaroError):
    """Settings that the doctor can't work with."""


def examine(model: str, video: str, query: str, *, engine: str | None, device: str, dtype: str) -> list[Finding]:
    """All findings for a folder or hub name.

    Args:
        video: file that is shown as training shows videos.
        query: what is asked about it.
        engine: `native`: without vLLM; `vllm`: with it; None: with it where it is installed.
        device, dtype: may be `auto`.

    Raises:
        ModelError: not a Qwen-VL model.
        VideoError: a video that can't be read.
        PromptError: a prompt that can't be built.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    grounding = GroundingSettings.load(model) or GroundingSettings()
    builder = PromptBuilder(model, grounding.prompt, grounding.max_prompt_tokens)
    shown = load_video(video, clip=None, settings=grounding.video, geometry=builder.geometry)
    answer = (*builder.encode(f"<think>{query}</think><answer>0.0s to {shown.duration:.1f}s</answer>"), builder.eos_id)
    case = Case(builder, query, builder.build(query, shown), answer)
    policy = load_model(model, device, dtype)
    findings = [*_of_video(case, video, grounding.video), *_of_native(policy, case), *_of_transformers(policy, case, dtype)]
    if engine != "native":
        findings += _of_vllm(policy, case, device, dtype)
    return findings


def _of_video(case: Case, path: str, settings: VideoSettings) -> Iterator[Finding]:
    file = VideoFile(Path(path), settings.timeout)
    pictures = len(file.within_limit(lambda: read_index(file, None)).pts)
    with file.opened() as (_, stream):
        size = stream.height, stream.width
    yield check_budget(pictures, size, case.prompt.video, settings, int(case.prompt.video_mask.sum()))


def _of_native(policy: QwenVL, case: Case) -> Iterator[Finding]:
    prompt = case.prompt
    yield from case.check_reading("ours", prompt.input_ids.tolist())
    yield check_positions(prompt.position_ids, transformers_positions(policy, case), prompt.video_mask)
    yield check_placeholders("ours", never_drawn(policy, prompt), case.placeholders)


def _of_transformers(policy: QwenVL, case: Case, dtype: str) -> Iterator[Finding]:
    if torchvision_is_installed():
        yield from check_transformers_processor(case)
    else:
        remark = "transformers' video processors need torchvision: pip install torchvision checks them, too"
        yield Finding("its processor", "transformers", NOT_INSTALLED, remark)
    shape = tuple(case.prompt.video.frames.shape)
    yield check_processor(saved_processor(case.builder.name_or_path), case.builder.geometry, shape, case.builder.family)
    ours = our_log_probs(policy, case.prompt, case.answer)
    theirs = transformers_log_probs(policy, case.prompt, case.answer, case.prompt.position_ids)
    yield check_log_probs("transformers", theirs, ours, dtype)


def _of_vllm(policy: QwenVL, case: Case, device: str, dtype: str) -> Iterator[Finding]:
    if not vllm_is_installed():
        yield Finding("all", "vLLM", NOT_INSTALLED, "pip install -e '.[vllm]' checks it, too")
        return
    longest = case.builder.max_tokens + DRAWN
    model = EngineModel.of(case.builder, max_model_len=longest, dtype=dtype, device=device.partition(":")[0])
    try:
        with closing(VLLMEngine(model, VLLMSettings(enforce_eager=True, sleep=False))) as engine:
            yield from check_vllm(engine, policy, case, dtype)
    except EngineError as error:
        yield Finding("all", "vLLM", DIFFERS, str(error))


def print_findings(findings: Sequence[Finding]) -> None:
    """A line for each, in the colour of its status."""
    table = Table("check", "of", "status", "what was found, and what to do")
    for one in findings:
        table.add_row(Text(one.check), one.of, Text(one.status, COLORS[one.status]), Text(one.remark))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    """Print the findings and return them."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub name of a Qwen2.5-VL, Qwen3-VL or Qwen3.5 model")
    parser.add_argument("--video", help="a file; unless given, a small one is made")
    parser.add_argument("--query", default="a dog runs", help="what is asked about it")
    parser.add_argument("--engine", choices=["native", "vllm"], help="native leaves vLLM out, vllm insists on it")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", help="of the weights: float32, bfloat16 or float16")
    parser.add_argument("--json", type=new_file, help="file for the same as JSON")
    args = parser.parse_args(arguments)
    if problems := list(engine_problems(args.engine or "native", args.device)):
        raise DoctorError(list_problems("can't examine:", problems))
    with tempfile.TemporaryDirectory() as folder:
        video = args.video
        if video is None:
            video = str(Path(folder, "made.mp4"))
            write_video(draw_scene(0), Path(video))
        settings = {"engine": args.engine, "device": args.device, "dtype": args.dtype}
        findings = examine(args.model, video, args.query, **settings)
    print_findings(findings)
    if args.json is not None:
        about = {"model": args.model, "video": args.video, "torch": torch.__version__, "transformers": version("transformers")}
        write_json(args.json, about | {"findings": findings})
    return findings


def command() -> None:
    """Ends with status 1 where something is wrong."""
    with clean_exit():
        findings = main()
    sys.exit(int(any(one.status == DIFFERS for one in findings)))


if __name__ == "__main__":
    command()
