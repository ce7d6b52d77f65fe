"""Samples from the public annotation files, whose formats are in `taro.prepare.sources`, `taro.prepare.task_sources` and
`taro.prepare.benchmark_sources`:

    python -m taro.prepare.convert --source activitynet --input val_1.json --output activitynet.jsonl
    python -m taro.prepare.convert --source charades --input test.txt --durations Charades_v1_test.csv --output charades.jsonl

No row is changed, and none is lost silently. Where spans, clips or captions lie wrong (a truth that ends after the video, one
of no length) the row stays as it is and is counted: `python -m taro.prepare.check` lists and mends such rows. What can't be a
sample (no query, no span, no duration, an id that was there before) stops the conversion; with `--bad_rows drop` it is left
out and listed.

Ids are the source's own. Where it has none they are the video's name and the number of the query among all of that video,
from 0: the same input gives the same ids. `video` is the file's name, relative to the folder of the videos.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePath
from typing import Literal

from taro.command_line import Parser
from taro.data.before_run import find_missing
from taro.data.rows import FAULTS, Caption, Fault, Row, list_rows, parse_row, span_fault
from taro.data.samples import Sample, save_samples
from taro.errors import TaroError, clean_exit
from taro.evaluation.registry import load_benchmarks
from taro.messages import first_names
from taro.prepare.benchmark_sources import BENCHMARK_SOURCES
from taro.prepare.paths import path_problems
from taro.prepare.sources import SOURCES, Source, read_durations
from taro.prepare.task_sources import TASK_SOURCES
from taro.video.file import VideoError
from taro.video.header import read_duration

ALL_SOURCES = SOURCES | TASK_SOURCES | BENCHMARK_SOURCES

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts")


class ConvertError(TaroError):
    """What was asked for can't be converted."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` did. Rows in the order of the input."""

    samples: tuple[Sample, ...]  # all that were written
    kept: tuple[Row, ...]  # those of them that have faults, as they are
    dropped: tuple[Row, ...]  # not written: they can't be samples
    missing: tuple[str, ...]  # videos that are not in `video_root`; none where it was not given


def convert(
    source: str,
    inputs: Sequence[Path],
    output: Path,
    *,
    video_root: Path | None = None,
    durations: Sequence[Path] = (),
    captions: bool = False,
    bad_rows: Literal["error", "drop"] = "error",
) -> Conversion:
    """Write the samples of public annotation files of a source in `ALL_SOURCES`; the output appears whole or not at all.

    Args:
        source, inputs, output: The samples are in the order of the inputs.
        video_root: Folder of the videos. A video that is there with another ending gets it, and a duration that is nowhere
            else is read from it. Names in the output are relative to this folder, which is the `video_root` to load it with.
        durations: csv files with the columns id and length (seconds), for sources that give no durations.
        captions: Give each sample the other sentences of the same file about the same video as its captions, unless it has
            some; those that lie wrong are not taken.
        bad_rows: `error` refuses rows that can't be samples, `drop` leaves them out.

    Raises:
        ConvertError: A path is wrong, rows can't be samples, or no sample is left.
        SourceError: A file is of another format.
    """
    read = [*(("--input", path) for path in inputs), *(("--durations", path) for path in durations)]
    if problems := path_problems(read, [("--video_root", video_root)], [("--output", output)]):
        raise ConvertError("\n".join(problems))
    root = output.parent if video_root is None else video_root
    rows = list(_read_rows(ALL_SOURCES[source], inputs, root, video_root, read_durations(durations), captions))
    good, dropped = [], []
    for row in rows:
        is_sample = row.sample is not None and all(fault.kind != "duplicate_id" for fault in row.faults)
        (good if is_sample else dropped).append(row)
    if dropped and bad_rows == "error":
        head = f"{len(dropped)} of {len(rows)} rows can't be samples"
        raise ConvertError(list_rows(head, dropped) + "\nMend the rows, or give --bad_rows drop to leave them out.")
    if not good:
        raise ConvertError(f"{', '.join(map(str, inputs))}: no samples ({len(rows)} rows read)")
    samples = tuple(row.sample for row in good)
    save_samples(samples, output, relative_to=root)
    missing = find_missing(sample.video for sample in samples) if video_root is not None else ()
    kept = tuple(row for row in good if row.faults)
    return Conversion(samples, kept, tuple(dropped), tuple(sorted(PurePath(video).name for video in missing)))


def _read_rows(
    source: Source, inputs: Iterable[Path], root: Path, video_root: Path | None, lengths: Mapping[str, float], captions: bool
) -> Iterator[Row]:
    """The rows of all files, completed by what a source may leave out: ids, durations, endings of videos and captions."""
    names, measured = _names_by_stem(video_root), cache(_duration_or_error)
    place_of_id: dict[str, str] = {}
    queries_of_video: Counter[str] = Counter()
    for path in inputs:
        rows = []
        for place, fields in source.read(path):
            if isinstance(fields, str):
                rows.append(Row(place, None, (Fault("unreadable", fields),)))
                continue
            called = source.names
            if isinstance(video := fields.get("video"), str):
                stem = PurePath(video).stem
                if video_root is not None and not (video_root / video).is_file():
                    fields["video"] = names.get(stem, video)
                if "id" not in fields:
                    fields["id"] = f"{stem}_{queries_of_video[stem]}"
                    queries_of_video[stem] += 1
                if "duration" not in fields and stem in lengths:
                    fields["duration"] = lengths[stem]
                elif "duration" not in fields and fields.get("clip") is None and video_root is not None:
                    fields["duration"] = measured(video_root / fields["video"])
            if "duration" not in fields:
                called = {**called, "duration": "duration (not in --durations, and no --video_root to read it)"}
            rows.append(parse_row(place, fields, root, place_of_id, called))
        yield from _with_captions(rows) if captions else rows


def _names_by_stem(folder: Path | None) -> dict[str, str]:
    """The names of the videos in a folder."""
    names = [] if folder is None else sorted((path.name for path in folder.iterdir()), reverse=True)
    return {PurePath(name).stem: name for name in names if PurePath(name).suffix.lower() in VIDEO_ENDINGS}


def _duration_or_error(video: Path) -> float | VideoError:
    try:
        return read_duration(video)
    except VideoError as error:
        return error


def _with_captions(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows, each with the sentences of the others about its video (and clip) as captions, in order of time."""
    described = defaultdict(list)
    for number, row in enumerate(rows):
        if row.sample is not None:
            spans = [span for span in row.sample.spans if span_fault(*span, row.sample.duration) is None]
            captions = [(number, Caption(*span, row.sample.query.strip())) for span in spans]
            described[row.sample.video, row.sample.clip] += captions
    for number, row in enumerate(rows):
        if row.sample is not None and not row.sample.captions:
            others = [caption for origin, caption in described[row.sample.video, row.sample.clip] if origin != number]
            others.sort(key=lambda caption: (caption.start, caption.end))
            row = replace(row, sample=replace(row.sample, captions=tuple(others)))
        yield row


# ---- Command ----


def describe(conversion: Conversion, output: Path, video_root: Path | None = None) -> str:
    """What was written, kept as it is, and left out, in lines."""
    samples = conversion.samples
    videos = len({sample.video for sample in samples})
    clips = sum(sample.clip is not None for sample in samples)
    lines = [f"{output}: {len(samples)} samples of {videos} videos, {clips} of them clips of a longer file"]
    for kind, meaning in FAULTS.items():
        rows = [row for row in conversion.kept if any(fault.kind == kind for fault in row.faults)]
        if rows:
            lines.append(f"kept as they are: {len(rows)} where {meaning} ({first_names(row.place for row in rows)})")
    if conversion.kept:
        lines.append(f"python -m taro.prepare.check {output} lists them all; --fix or --drop there mends them")
    if conversion.dropped:
        lines.append(list_rows(f"left out, for they can't be samples: {len(conversion.dropped)}", conversion.dropped))
    if conversion.missing:
        missing = conversion.missing
        lines.append(f"not in {video_root}: {len(missing)} of the videos ({first_names(missing)})")
    return "\n".join(lines)


def find_licenses(source: str, inputs: Iterable[Path]) -> list[str]:
    """Of the benchmarks that are made from these files, as the registry has them; of all that are made from the source where it
    names none of the files. Where there are several, each says whose it is."""
    made = [one for one in load_benchmarks() if f"--source {source} " in one.make]
    names = {path.name for path in inputs}
    made = [one for one in made if names & set(one.make.split())] or made
    owners: dict[str, list[str]] = defaultdict(list)
    for one in made:
        owners[one.license].append(one.name)
    several = len(owners) > 1
    return [f"{text} ({', '.join(owners[text])})" if several else text for text in sorted(owners) if text != "unknown"]


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=list(ALL_SOURCES), required=True)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="annotation files of that source")
    parser.add_argument("--output", type=Path, required=True, help="the samples, JSON lines")
    parser.add_argument("--video_root", type=Path, help="folder of the videos: finds their endings, counts missing ones")
    parser.add_argument("--durations", type=Path, nargs="+", default=[], help="csv files with the columns id and length")
    parser.add_argument("--captions", action="store_true", help="fill captions with the other sentences of the same video")
    parser.add_argument("--bad_rows", choices=("error", "drop"), default="error", help="rows that can't be samples")
    args = vars(parser.parse_args(arguments))
    inputs = args.pop("input")
    conversion = convert(inputs=inputs, **args)
    print(describe(conversion, args["output"], args["video_root"]))
    for text in find_licenses(args["source"], inputs):
        print(f"license: {text}")


if __name__ == "__main__":
    with clean_exit():
        main()
