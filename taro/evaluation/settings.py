"""What is evaluated and how: the flags of `eval.py`, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from taro.evaluation.bootstrap import RESAMPLES
from taro.evaluation.predictions import EvaluationError
from taro.evaluation.registry import Benchmark, find_benchmark, load_benchmarks, own_benchmark
from taro.jsonl import ResumeError, Shard
from taro.messages import list_problems
from taro.models.settings import GroundingSettings
from taro.rollout import VLLMSettings
from taro.rollout.start import engine_problems


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluate a model on a benchmark of temporal grounding, or on samples of one's own.

    Args:
        dataset: Charades, ActivityNet, QVHighlights, TVGBench, TACoS, Ego4D-NLQ, Synthetic, or another name in `datasets`; not
            needed with `annotations`.
        model: folder or hub name of a Qwen2.5-VL or Qwen3-VL model.
        engine: what generates: `native`, or `vllm`.
        datasets: registry of benchmarks to use in place of configs/datasets.yaml, in the same form.
        annotations: samples file: one's own, or that of `dataset` where it is not in its usual place.
        video_root: folder of the videos, likewise; that of `annotations` unless given.
        limit: only the first so many samples.
        output: folder for `predictions.jsonl`, `metrics.json` and `config.yaml`; an evaluation that was stopped goes on with
            what is missing there.
        shard: `i/n` answers the i-th of n parts, i from 0, for one process on each GPU or machine; the last one to finish
            writes the metrics of all into `output`, which they share.
        strict: R1@m counts IoU > m, as Time-R1's evaluation does, and not IoU >= m.
        max_tokens: of an answer with its reasoning.
        repetition_penalty: 1.05 is what TaRO's and Time-R1's published numbers were made with.
        batch_size: samples worked on at once.
        workers: processes that decode videos ahead.
        resamples: of the bootstrap that the intervals come from.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        vllm: settings of that engine.
        grounding: prompt and video settings; those in the model's folder unless given, or else the defaults.
    """

    model: str
    dataset: str | None = None
    engine: Literal["native", "vllm"] = "native"
    datasets: str | None = None
    annotations: str | None = None
    video_root: str | None = None
    limit: int | None = None
    output: str | None = None
    shard: str | None = None
    strict: bool = False
    max_tokens: int = 1024
    repetition_penalty: float = 1.0
    batch_size: int = 16
    workers: int = 2
    resamples: int = RESAMPLES
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    vllm: VLLMSettings = field(default_factory=lambda: VLLMSettings(gpu_memory_utilization=0.9))
    grounding: GroundingSettings | None = None


@dataclass(frozen=True)
class Resolved:
    """What follows from the settings alone."""

    benchmark: Benchmark
    annotations: Path
    video_root: str | None
    shard: Shard


def resolve(settings: EvaluationSettings) -> Resolved:
    """
    Raises:
        EvaluationError: settings that can't work, all of them named.
    """
    problems = [*_number_problems(settings), *_shard_problems(settings), *engine_problems(settings.engine, settings.device)]
    try:
        benchmark = _choose_benchmark(settings)
        annotations = _find_annotations(settings, benchmark)
    except EvaluationError as error:
        problems.insert(0, str(error))
    if problems:
        raise EvaluationError(list_problems("can't evaluate:", problems))
    return Resolved(
        benchmark=benchmark,
        annotations=annotations,
        video_root=settings.video_root or (benchmark.video_root if settings.annotations is None else None),
        shard=Shard.parse(settings.shard),
    )


def _choose_benchmark(settings: EvaluationSettings) -> Benchmark:
    if settings.dataset is not None:
        return find_benchmark(settings.dataset, load_benchmarks(settings.datasets))
    if settings.annotations is None:
        raise EvaluationError("what to evaluate on: give --dataset, the name of a benchmark, or --annotations, a samples file")
    return own_benchmark(settings.annotations)


def _find_annotations(settings: EvaluationSettings, benchmark: Benchmark) -> Path:
    path = Path(settings.annotations or benchmark.annotations)
    if path.is_file():
        return path
    if settings.annotations is not None:
        raise EvaluationError(f"--annotations {path}: no such samples file")
    raise EvaluationError(
        f"--dataset {settings.dataset}: its samples file {path} is not there; make it, or name it with --annotations. "
        f"{benchmark.how_to_get()}"
    )


def _number_problems(settings: EvaluationSettings) -> Iterator[str]:
    for name, lowest in {"limit": 1, "max_tokens": 1, "batch_size": 1, "workers": 0, "resamples": 1}.items():
        value = getattr(settings, name)
        if value is not None and value < lowest:
            yield f"--{name} {value}: must be at least {lowest}"
    if not settings.repetition_penalty > 0:
        yield f"--repetition_penalty {settings.repetition_penalty}: must be above 0"


def _shard_problems(settings: EvaluationSettings) -> Iterator[str]:
    try:
        Shard.parse(settings.shard)
    except ResumeError as error:
        yield str(error)
    if settings.shard is not None and settings.output is None:
        yield "--shard needs --output, the folder that the shards share"
