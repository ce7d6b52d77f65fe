"""Truth and predictions for FiftyOne: its format of temporal detections (FiftyOneTemporalDetectionDataset), one file of labels
for each field, and one that says where the videos are. FiftyOne itself is not needed to write them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taro.data.samples import Sample
from taro.files import write_text
from taro.spans import Span
from taro.view.evaluated import Evaluated
from taro.view.timeline import ViewError

VIDEOS, TRUTH = "data.json", "truth"


def export(runs: Sequence[Evaluated], folder: Path) -> list[str]:
    """Write `data.json`, `truth.json`, and `predictions.json` of each run; returns the lines of Python that load them.

    A detection's label is its query; its sample and an answer's IoU are attributes. Of a span that ends before it starts,
    FiftyOne has no notion: such a one is left out, as is one that isn't there. Times are seconds of the file's clock.

    Raises:
        ViewError: the videos aren't known, or the folder can't be written to.
    """
    samples = runs[0].samples
    if not all(sample.video for sample in samples):
        raise ViewError(f"--fiftyone {folder}: the videos aren't known: {'; '.join(runs[0].remarks)}")
    names = _name_videos(samples)
    labels = {TRUTH: _labels(samples, names, [[(span, {}) for span in sample.spans] for sample in samples])}
    for place, run in enumerate(runs):
        answers = {one.id: one for one in run.predictions}
        found = []
        for sample in samples:
            one = answers[sample.id]
            found.append([(span, {"iou": one.iou}) for span in one.reading.spans or () if span[0] <= span[1]])
        labels["predictions" if place == 0 else f"predictions_{place + 1}"] = _labels(samples, names, found)
    files = {VIDEOS: {name: os.path.abspath(video) for video, name in names.items()}}
    files |= {f"{field}.json": {"labels": rows} for field, rows in labels.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_text(folder / name, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise ViewError(f"--fiftyone {folder}: can't be written to ({error.strerror})") from None
    return _loading_lines(folder, list(labels))


def _labels(
    samples: Sequence[Sample], names: Mapping[str, str], found: Sequence[Sequence[tuple[Span, dict[str, Any]]]]
) -> dict[str, list[dict[str, Any]]]:
    """Detections of each video."""
    labels: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for sample, spans in zip(samples, found, strict=True):
        start = sample.clip[0] if sample.clip else 0.0
        labels[names[sample.video]] += [
            {
                "label": sample.query,
                "timestamps": [span[0] + start, span[1] + start],
                "attributes": {"sample": sample.id, **attributes},
            }
            for span, attributes in spans
        ]
    return labels


def _name_videos(samples: Sequence[Sample]) -> dict[str, str]:
    """A name for each video: its file's, with its folders where another one has that."""
    videos = list(dict.fromkeys(sample.video for sample in samples))
    stems = [Path(video).stem for video in videos]
    return {video: stem if stems.count(stem) == 1 else video for video, stem in zip(videos, stems, strict=True)}


def _loading_lines(folder: Path, fields: Sequence[str]) -> list[str]:
    lines = ["import fiftyone as fo", "dataset = fo.Dataset()"]
    for field in fields:
        lines.append(
            f"dataset.merge_dir(data_path={str(folder.absolute() / VIDEOS)!r}, "
            f"labels_path={str(folder.absolute() / f'{field}.json')!r}, "
            f"dataset_type=fo.types.FiftyOneTemporalDetectionDataset, label_field={field!r})"
        )
    return lines
