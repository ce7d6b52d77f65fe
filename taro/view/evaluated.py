"""An evaluation as `eval.py --output` left it, with the samples that it was made on, where they are still there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taro.data.samples import Sample, SampleError, load_samples
from taro.evaluation.made_with import describe_asked
from taro.evaluation.predictions import Prediction, load_predictions
from taro.jsonl import read_config
from taro.view.timeline import ViewError

OWN_BREAKDOWNS = ("video_length", "moment_length", "task")  # which every report has


@dataclass(frozen=True)
class Evaluated:
    """One evaluation.

    Attributes:
        folder: of `eval.py --output`.
        model: that answered.
        made_with: model, frames, budgets and prompt of the answers, in words.
        dataset: that was asked.
        predictions: in the order of the samples.
        samples: theirs, in the same order; without durations and videos (nan and "") where `remarks` say so.
        breakdowns: keys of the samples' rows by whose values there are metrics, too.
        official: scores of the benchmark's own scorer.
        strict: R1 counts IoU > level.
        fit: file of the training samples that blind answers were fitted on.
        remarks: what is missing, in words.
    """

    folder: Path
    model: str
    made_with: str
    dataset: str
    predictions: list[Prediction]
    samples: list[Sample]
    breakdowns: tuple[str, ...]
    official: dict[str, float | None]
    strict: bool
    fit: str | None = None
    remarks: tuple[str, ...] = ()


def read_evaluation(folder: Path, annotations: Path | None = None, video_root: Path | None = None) -> Evaluated:
    """
    Args:
        folder: of a finished evaluation.
        annotations: its samples file, where it is no more where it was.
        video_root: folder of the videos, likewise.

    Raises:
        EvaluationError: no finished evaluation is there, or a line of its predictions can't be read.
        RowError: predictions that are none.
        ViewError: `annotations` or `video_root` is not there.
    """
    if not folder.is_dir():
        raise ViewError(f"{folder}: no such folder; name one that eval.py wrote with --output")
    for flag, path, there in (("annotations", annotations, Path.is_file), ("video_root", video_root, Path.is_dir)):
        if path is not None and not there(path):
            raise ViewError(f"--{flag} {path}: is not there")
    predictions, config = load_predictions(folder), read_config(folder)
    about = _read_metrics(folder)
    samples, remark = _find_samples(predictions, about, annotations, video_root)
    return Evaluated(
        folder=folder,
        model=str(config.get("model", "?")),
        made_with=describe_asked(config),
        dataset=str(config.get("dataset", "?")),
        predictions=predictions,
        samples=samples,
        breakdowns=tuple(name for name in about.get("breakdowns", {}) if name not in OWN_BREAKDOWNS),
        official=about.get("official", {}),
        strict=bool(about.get("strict", False)),
        fit=about.get("fit"),
        remarks=(remark,) if remark else (),
    )


def read_strict(folder: Path) -> bool:
    """Whether R1 counted IoU > level there. Raises ViewError."""
    return bool(_read_metrics(folder).get("strict", False))


def _read_metrics(folder: Path) -> dict[str, Any]:
    """Of `metrics.json`; {} where it isn't there: it is written after the last prediction.

    Raises:
        ViewError: it is no JSON object.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ViewError(f"{path}: can't be read ({error}); the eval.py that made it writes it again") from None
    if not isinstance(found, dict):
        raise ViewError(f"{path}: holds no metrics; the eval.py that made it writes it again")
    return found


def _find_samples(
    predictions: Sequence[Prediction], about: dict[str, Any], annotations: Path | None, video_root: Path | None
) -> tuple[list[Sample], str | None]:
    """The samples of the predictions, and why they are without durations and videos, if they are."""
    bare = [Sample(one.id, "", one.query, one.spans, math.nan, task=one.task) for one in predictions]
    without = "positions in the video and frames are left out"
    file = annotations or (Path(about["annotations"]) if about.get("annotations") else None)
    if file is None or not file.is_file():
        unknown = "it isn't known which samples file this was made on"
        where = f"the samples file {file} is not there any more" if file else unknown
        return bare, f"{where}: {without}; name it with --annotations"
    root = video_root or (about.get("video_root") if annotations is None else None)
    try:
        known = {sample.id: sample for sample in load_samples(file, video_root=root, bad_rows="keep")}
    except SampleError as error:
        return bare, f"{without}: {error}"
    samples = [known.get(one.id) for one in predictions]
    pairs = zip(samples, predictions, strict=True)
    other = [one.id for sample, one in pairs if sample is None or (sample.query, sample.spans) != (one.query, one.spans)]
    if other:
        return bare, f"{file} has other samples now ({len(other)} differ, the first is {other[0]}): {without}"
    return samples, None
