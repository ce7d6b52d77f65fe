"""Samples: one query about one video and the spans that answer it, read from and written to JSON lines."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from taro.data.annotation_file import read_rows
from taro.data.rows import Caption, Row, Sample, list_rows
from taro.errors import TaroError
from taro.jsonl import write_lines
from taro.prompts import build_request
from taro.tasks import find_task

__all__ = ["BadRows", "Caption", "Sample", "SampleError", "load_samples", "query_key", "save_samples"]

BadRows = Literal["error", "drop", "keep"]

logger = logging.getLogger(__name__)


class SampleError(TaroError):
    """A file of samples that can't be used as it is; the message names every bad row (the first 20 in full)."""


def load_samples(
    path: str | os.PathLike[str],
    *,
    video_root: str | os.PathLike[str] | None = None,
    bad_rows: BadRows = "error",
    limit: int | None = None,
) -> list[Sample]:
    """Read samples from a file with one JSON object a line.

    Two kinds of row are understood, also mixed: the fields of ``Sample``, and rows of the public benchmark files
    (recognised by ``relevant_windows``), whose windows are in the clip's clock already. A duration that a row doesn't have
    is its clip's, or is read from the video's header.

    Args:
        path: The annotation file.
        video_root: Folder that relative video paths start from; the annotation file's own unless given.
        bad_rows: ``error`` refuses the file; ``drop`` leaves bad rows out and logs which; ``keep`` is for evaluation, where
            every row counts: those that are bad only in where their spans lie, lack a duration that can't be read from the
            video either (it is nan then), or have a tag in their query, stay as they are; any other fault refuses the file.
        limit: Read this many rows from the top, and check no others; None reads all.

    Raises:
        SampleError: A row is bad and ``bad_rows`` doesn't cover it, or no sample is left.
    """
    path = Path(path)
    rows = read_rows(path, path.parent if video_root is None else Path(video_root), limit)
    bad = [row for row in rows if row.faults]
    fatal = [row for row in bad if bad_rows == "error" or (bad_rows == "keep" and not row.still_counts)]
    if fatal:
        head = f"{path}: {len(fatal)} of {len(rows)} rows can't be used"
        raise SampleError(list_rows(head, fatal) + _remedy(fatal, bad_rows))
    if bad:
        done = "dropped" if bad_rows == "drop" else "kept as they are"
        logger.warning(list_rows(f"{path}: {len(bad)} of {len(rows)} rows {done}", bad))
    samples = [row.sample for row in rows if bad_rows == "keep" or not row.faults]
    if not samples:
        raise SampleError(f"{path}: no samples ({len(rows)} rows read, {len(bad)} of them bad); one or more are needed")
    return samples


def save_samples(
    samples: Iterable[Sample],
    path: str | os.PathLike[str],
    *,
    relative_to: str | os.PathLike[str] | None = None,
) -> None:
    """Write samples so that ``load_samples`` gives them back; the file appears whole or not at all, and its folder is made.

    Video paths are relative to `relative_to`, which is then the ``video_root`` to load them with (the file's own folder needs
    none); absolute unless given.
    """
    write_lines((to_row(sample, relative_to) for sample in samples), path)


def save_like(
    samples: Iterable[Sample],
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    video_root: str | os.PathLike[str] | None,
) -> None:
    """Save samples that were loaded from `source` with `video_root`: relative videos stay relative where the same setting
    finds them again, and become absolute elsewhere."""
    root = Path(source).parent if video_root is None else video_root
    same_root = video_root is not None or Path(path).parent.resolve() == Path(source).parent.resolve()
    save_samples(samples, path, relative_to=root if same_root else None)


def query_key(sample: Sample) -> tuple[Any, ...]:
    """Equal for samples with the same request, as a prompt has it, about the same video, and the same truth."""
    asked = build_request(find_task(sample.task).subject(sample), "{query}")
    return sample.video, sample.clip, asked, sample.spans, sample.task


def to_row(sample: Sample, relative_to: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The row of a file; a duration that isn't known (nan) is not in it. `relative_to`: see `save_samples`."""
    row = asdict(sample)
    extra = row.pop("extra")
    if math.isnan(sample.duration):
        del row["duration"]
    row["video"] = os.path.abspath(sample.video) if relative_to is None else os.path.relpath(sample.video, relative_to)
    return {**row, **{name: value for name, value in extra.items() if name not in row}}


def _remedy(rows: Sequence[Row], bad_rows: BadRows) -> str:
    text = "\nMend the rows"
    if bad_rows == "error":
        text += ", or set bad_rows to drop to leave them out"
        if all(row.still_counts for row in rows):
            text += " (for evaluation: to keep, so that they still count)"
    else:
        text += ", or take them out of the file"
    if any(fault.kind == "no_duration" for row in rows for fault in row.faults):
        text += "; where videos are not found, set video_root to the folder that their paths start from"
    return text + "."
