"""A model's answers to the queries of a benchmark, and their metrics. Every sample that was asked for counts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader

from taro.data.dataset import GroundingDataset
from taro.data.examples import GroundingExample
from taro.data.samples import load_samples
from taro.evaluation.datasets import BENCHMARKS
from taro.evaluation.metrics import GroundingMetrics
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.prompts import parse_answer
from taro.rl.rollout import NativeEngine, RolloutEngine, RolloutPrompt, SamplingSettings
from taro.spans import temporal_iou


class EvaluationError(ValueError):
    """What was asked for can't be evaluated."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]  # one for each sample, in their order


def evaluate(
    dataset: str,
    model: str,
    engine: Literal["native"] = "native",
    annotations: str | None = None,
    video_root: str | None = None,
    limit: int | None = None,
    output: str | None = None,
    max_tokens: int = 1024,
    batch_size: int = 16,
    workers: int = 2,
    device: str = "auto",
    dtype: str = "auto",
    grounding: GroundingSettings | None = None,
) -> Evaluation:
    """Greedy answers of a model to a benchmark.

    Args:
        dataset: Synthetic or Charades.
        model: folder or hub name of a Qwen2.5-VL or Qwen3-VL model.
        engine: what generates.
        annotations: samples file, where it is not in the benchmark's usual place.
        video_root: folder of the videos, likewise.
        limit: only the first so many samples.
        output: folder for `predictions.jsonl` and `metrics.json`.
        max_tokens: of an answer with its reasoning.
        batch_size: samples answered together.
        workers: processes that decode videos ahead.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        dtype: of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        grounding: prompt and video settings; those in the model's folder unless given, or else the defaults.

    Raises:
        EvaluationError: an unknown dataset or a missing file, before the model is loaded.
        SampleError: rows that can't be read.
        ModelError: not a Qwen-VL model.
    """
    samples = _samples(dataset, annotations, video_root, limit)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    dtype = ("float32" if device == "cpu" else "bfloat16") if dtype == "auto" else dtype
    settings = (grounding or GroundingSettings.load(model) or GroundingSettings()).for_evaluation()
    builder = PromptBuilder(model, settings.prompt, settings.max_prompt_tokens)
    policy = QwenVL.from_pretrained(model, dtype).to(device).eval()
    loader = DataLoader(
        GroundingDataset(samples, builder, settings), batch_size, collate_fn=list, num_workers=workers
    )
    sampling = SamplingSettings(temperature=0.0, max_tokens=max_tokens)
    rollouts = NativeEngine(policy, builder.end_ids)
    started, predictions = time.perf_counter(), []
    for batch in track(loader, description=dataset, transient=True):
        predictions += answer(rollouts, builder, batch, sampling)
    metrics = score_predictions(predictions) | {"seconds": time.perf_counter() - started}
    if output is not None:
        _write(Path(output), metrics, predictions, {"dataset": dataset, "model": model, "grounding": asdict(settings)})
    return Evaluation(metrics, predictions)


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
    engine: RolloutEngine, builder: PromptBuilder, batch: list[GroundingExample], sampling: SamplingSettings
) -> list[dict[str, Any]]:
    """A prediction for each example of a batch: its completion and span, or the reason why there is none."""
    requests = [RolloutPrompt(e.prompt, ((),), (0,)) for e in batch if e.prompt is not None]
    groups = iter(engine.generate(requests, sampling))
    predictions = []
    for example in batch:
        sample = example.sample
        row = {"id": sample.id, "query": sample.query, "spans": sample.spans, "failure": example.failure}
        if example.prompt is None:
            row |= {"completion": None, "answer": None, "iou": 0.0}
        else:
            text = builder.decode(next(groups).completions[0])
            span = parse_answer(text)
            row |= {
                "completion": text,
                "answer": span,
                "iou": max(temporal_iou(span, truth) for truth in sample.spans),
            }
        predictions.append(row)
    return predictions


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


def _write(folder: Path, metrics: dict, predictions: list[dict], about: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(about | {"metrics": metrics}, indent=2) + "\n")
    with (folder / "predictions.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in predictions)


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
