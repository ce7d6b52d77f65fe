"""A model's answers to the queries of a benchmark, and their metrics. Every sample that was asked for counts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader

from taro.data.dataset import GroundingDataset
from taro.data.examples import GroundingExample
from taro.data.samples import Sample, load_samples
from taro.evaluation.datasets import BENCHMARKS
from taro.evaluation.metrics import GroundingMetrics
from taro.evaluation.predictions import EvaluationError, PredictionFolder, Shard, digest_samples, file_states
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.prompts import parse_answer
from taro.rl.rollout import (
    EngineModel,
    NativeEngine,
    RolloutEngine,
    RolloutPrompt,
    SamplingSettings,
    VLLMEngine,
    VLLMSettings,
)
from taro.spans import temporal_iou


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]  # one for each sample, in their order


def evaluate(
    dataset: str,
    model: str,
    engine: Literal["native", "vllm"] = "native",
    annotations: str | None = None,
    video_root: str | None = None,
    limit: int | None = None,
    output: str | None = None,
    shard: str | None = None,
    max_tokens: int = 1024,
    repetition_penalty: float = 1.0,
    batch_size: int = 16,
    workers: int = 2,
    device: str = "auto",
    dtype: str = "auto",
    vllm: VLLMSettings = VLLMSettings(gpu_memory_utilization=0.9),
    grounding: GroundingSettings | None = None,
) -> Evaluation:
    """Greedy answers of a model to a benchmark.

    Args:
        dataset: Synthetic or Charades.
        model: folder or hub name of a Qwen2.5-VL or Qwen3-VL model.
        engine: what generates: `native`, or `vllm`.
        annotations: samples file, where it is not in the benchmark's usual place.
        video_root: folder of the videos, likewise.
        limit: only the first so many samples.
        output: folder for `predictions.jsonl` and `metrics.json`; an evaluation that was stopped goes on with what is missing
            there.
        shard: `i/n` answers the i-th of n parts, i from 0, for one process on each GPU or machine; the last one to finish
            writes the metrics of all into `output`, which they share.
        max_tokens: of an answer with its reasoning.
        repetition_penalty: 1.05 is what TaRO's and Time-R1's published numbers were made with.
        batch_size: samples worked on at once.
        workers: processes that decode videos ahead.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        vllm: settings of that engine.
        grounding: prompt and video settings; those in the model's folder unless given, or else the defaults.

    Raises:
        EvaluationError: an unknown dataset, a missing file, or an output folder with other answers, before the model is loaded.
        SampleError: rows that can't be read.
        ModelError: not a Qwen-VL model.
        EngineError: vLLM is not installed, or can't run the model.
    """
    part = Shard.parse(shard)
    if shard is not None and output is None:
        raise EvaluationError("--shard needs --output, the folder that the shards share")
    if batch_size < 1:
        raise EvaluationError(f"--batch_size {batch_size}: must be at least 1")
    if engine == "vllm" and ":" in device:
        raise EvaluationError(f"--device {device}: vLLM takes the first GPU it sees: set CUDA_VISIBLE_DEVICES, and cuda here")
    samples = _samples(dataset, annotations, video_root, limit)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    dtype = ("float32" if device == "cpu" else "bfloat16") if dtype == "auto" else dtype
    settings = (grounding or GroundingSettings.load(model) or GroundingSettings()).for_evaluation()
    longest = settings.max_prompt_tokens
    if engine == "vllm" and vllm.max_model_len is not None:
        longest = min(longest, vllm.max_model_len - max_tokens)  # longer ones fail by themselves
    builder = PromptBuilder(model, settings.prompt, longest)
    sampling = SamplingSettings(0.0, max_tokens, repetition_penalty)
    about = {
        "dataset": dataset, "model": model, "weights": file_states(model), "engine": engine, "dtype": dtype,
        "samples": digest_samples(samples), "sampling": asdict(sampling), "grounding": asdict(settings),
    }  # fmt: skip
    folder = None if output is None else PredictionFolder(output, about, part)
    known = {} if folder is None else folder.read()
    todo = [sample for sample in part.of(samples) if sample.id not in known]
    started = time.perf_counter()
    if todo:
        rollouts = _engine(engine, builder, sampling, device, dtype, vllm)
        dataset_ = GroundingDataset(todo, builder, settings)
        loader = DataLoader(dataset_, batch_size=None, collate_fn=_same, num_workers=workers)
        rows = track(answer(rollouts, builder, loader, sampling, batch_size), dataset, len(todo), transient=True)
        new = {}
        if folder is None:
            new = {row["id"]: row for row in rows}
        else:
            folder.append(rows)
        known = new if folder is None else folder.read()
    predictions = [known[sample.id] for sample in samples if sample.id in known]
    metrics = score_predictions(predictions) | {"seconds": time.perf_counter() - started}
    if folder is not None and len(predictions) == len(samples) and (todo or not folder.has_metrics):
        folder.write_metrics(metrics)
    return Evaluation(metrics, predictions)


def _engine(
    name: str, builder: PromptBuilder, sampling: SamplingSettings, device: str, dtype: str, settings: VLLMSettings
) -> RolloutEngine:
    if name == "native":
        policy = QwenVL.from_pretrained(builder.name_or_path, dtype).to(device).eval()
        return NativeEngine(policy, builder.end_ids)
    model = EngineModel.of(
        builder, max_model_len=builder.max_tokens + sampling.max_tokens, dtype=dtype, device=device.split(":")[0]
    )
    return VLLMEngine(model, settings)


def _same(example: GroundingExample) -> GroundingExample:
    return example


def _samples(dataset: str, annotations: str | None, video_root: str | None, limit: int | None) -> list:
    benchmark = BENCHMARKS.get(dataset)
    if benchmark is None:
        raise EvaluationError(f"--dataset {dataset}: unknown, allowed: {', '.join(BENCHMARKS)}")
    path = Path(annotations or benchmark.annotations)
    if not path.is_file():
        raise EvaluationError(f"{path}: no such samples file; name it with --annotations")
    root = video_root or (benchmark.video_root if annotations is None else None)
    return load_samples(path, video_root=root, bad_rows="keep", limit=limit)


def answer(
    engine: RolloutEngine,
    builder: PromptBuilder,
    examples: Iterable[GroundingExample],
    sampling: SamplingSettings,
    at_once: int,
) -> Iterator[dict[str, Any]]:
    """A prediction for each example, as they come: its completion and span, or the reason why there is none."""
    failed: list[GroundingExample] = []
    asked: dict[int, GroundingExample] = {}

    def requests() -> Iterator[RolloutPrompt]:
        for example in examples:
            if example.prompt is None:
                failed.append(example)
            else:
                asked[len(asked)] = example
                yield RolloutPrompt(example.prompt, ((),), (0,))

    for number, group in engine.stream(requests(), sampling, at_once):
        text, sample = builder.decode(group.completions[0]), asked[number].sample
        asked[number] = replace(asked[number], prompt=None)  # its frames are not needed any more
        span = parse_answer(text)
        iou = max(temporal_iou(span, truth) for truth in sample.spans)
        yield _prediction(sample, completion=text, answer=span, iou=iou)
    for example in failed:
        yield _prediction(example.sample, failure=example.failure)


def _prediction(sample: Sample, **values: Any) -> dict[str, Any]:
    empty = {"failure": None, "completion": None, "answer": None, "iou": 0.0}
    return {"id": sample.id, "query": sample.query, "spans": sample.spans} | empty | values


def score_predictions(predictions: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics of all predictions; a failed one counts and scores 0."""
    answered = [row for row in predictions if row["failure"] is None]
    metrics = GroundingMetrics()
    metrics.update(
        [row["answer"] for row in answered],
        [row["spans"] for row in answered],
        [row["completion"] for row in answered],
        failed=len(predictions) - len(answered),
    )
    return {name: float(value) for name, value in metrics.compute().items()}


def print_evaluation(evaluation: Evaluation) -> None:
    """The metrics as a table, and what failed or gave no answer, with its reason."""
    console, table = Console(), Table("metric", "value")
    for name, value in evaluation.metrics.items():
        table.add_row(name, f"{value:.0f}" if name in ("samples", "failed") else f"{value:.3f}")
    console.print(table)
    for line in _failures(evaluation.predictions):
        console.print(line, markup=False, soft_wrap=True)


def _failures(predictions: list[dict[str, Any]]) -> Iterator[str]:
    failed = [row for row in predictions if row["answer"] is None]
    for row in failed[:20]:
        if row["failure"]:
            yield f"failed: {row['id']}: {row['failure']}"
        else:
            yield f"no answer: {row['id']}: ...{row['completion'][-60:]!r}"
    if len(failed) > 20:
        yield f"... and {len(failed) - 20} more"
