"""Samples from the public annotation files, whose formats are in `taro.prepare.sources`:

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from taro.command_line import Parser
from taro.data.rows import FAULTS, Caption, Fault, Row, list_rows, parse_row, span_fault
from taro.data.samples import Sample, save_samples
from taro.errors import TaroError, clean_exit
from taro.messages import first_names
from taro.prepare.sources import SOURCES, SourceRow, read_durations

UnusableRows = Literal["error", "drop"]
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts")


class ConvertError(TaroError):
    """What was asked for can't be converted."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` did. Rows in the order of the input."""

    samples: tuple[Sample, ...]
    """All that were written."""
    kept: tuple[Row, ...]
    """Those of them that have faults, as they are."""
    dropped: tuple[Row, ...]
    """Not written: they can't be samples."""
    missing: tuple[str, ...]
    """Videos that are not in `video_root`; none where it was not given."""


def convert(
    source: str,
    inputs: Sequence[Path],
    output: Path,
    *,
    video_root: Path | None = None,
    durations: Sequence[Path] = (),
    captions: bool = False,
    bad_rows: UnusableRows = "error",
) -> Conversion:
    """Write the samples of public annotation files; the output appears whole or not at all.

    Args:
        source: A name in `SOURCES`.
        inputs: Annotation files, in the order that their samples will have.
        output: The file of samples.
        video_root: Folder of the videos. A video that is there with another ending gets it. Names in the output are
            relative to this folder, which is the `video_root` to load it with.
        durations: csv files with the columns id and length (seconds), for sources that give no durations.
        captions: Give each sample the other sentences of the same file about the same video as its captions, unless it has
            some; those that lie wrong are not taken.
        bad_rows: `error` refuses rows that can't be samples, `drop` leaves them out.

    Raises:
        ConvertError: A path is wrong, rows can't be samples, or no sample is left.
        SourceError: A file is of another format.
        OSError: A file can't be read or written.
    """
    _check_paths(source, inputs, output, video_root, durations)
    lengths, folder = read_durations(durations), _VideoFolder(video_root)
    root = output.parent if video_root is None else video_root
    rows: list[Row] = []
    place_of_id: dict[str, str] = {}
    queries_of_video: Counter[str] = Counter()
    for path in inputs:
        file_rows = []
        for raw in SOURCES[source].read(path):
            completed = _complete(raw, lengths, folder, queries_of_video)
            file_rows.append(_parse(completed, root, place_of_id, SOURCES[source].names))
        rows += _with_captions(file_rows) if captions else file_rows
    good = [row for row in rows if _can_be_written(row)]
    dropped = [row for row in rows if not _can_be_written(row)]
    if dropped and bad_rows == "error":
        head = f"{len(dropped)} of {len(rows)} rows can't be samples"
        raise ConvertError(list_rows(head, dropped) + "\nMend the rows, or give --bad_rows drop to leave them out.")
    if not good:
        raise ConvertError(f"{', '.join(map(str, inputs))}: no samples ({len(rows)} rows read)")
    samples = tuple(row.sample for row in good)
    save_samples(samples, output, relative_to=root)
    kept = tuple(row for row in good if row.faults)
    return Conversion(samples, kept, tuple(dropped), tuple(folder.missing))


class _VideoFolder:
    """The names of the videos in a folder; without one, names stay as they are."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.missing: dict[str, None] = {}  # in order
        names = [] if root is None else sorted(path.name for path in root.iterdir())
        self._by_stem: dict[str, str] = {}
        for name in names:
            if PurePath(name).suffix.lower() in VIDEO_ENDINGS:
                self._by_stem.setdefault(PurePath(name).stem, name)

    def find(self, name: str) -> str:
        if self.root is None or (self.root / name).is_file():
            return name
        found = self._by_stem.get(PurePath(name).stem)
        if found is None:
            self.missing[name] = None
        return found or name


def _complete(row: SourceRow, lengths: Mapping[str, float], folder: _VideoFolder, queries_of_video: Counter[str]) -> SourceRow:
    """Add what a source may leave out: id and duration; and name the video as it is named in the folder."""
    video = row.fields.get("video")
    if row.problem is not None or not isinstance(video, str):
        return row
    stem = PurePath(video).stem
    fields: dict[str, Any] = {**row.fields, "video": folder.find(video)}
    if "id" not in fields:
        fields["id"] = f"{stem}_{queries_of_video[stem]}"
        queries_of_video[stem] += 1
    if "duration" not in fields and stem in lengths:
        fields["duration"] = lengths[stem]
    return replace(row, fields=fields)


def _parse(row: SourceRow, root: Path, place_of_id: dict[str, str], names: Mapping[str, str]) -> Row:
    if row.problem is not None:
        return Row(row.place, None, (Fault("unreadable", row.problem),))
    if "duration" not in row.fields:
        names = {**names, "duration": "duration (the video is in no file of --durations)"}
    return parse_row(row.place, row.fields, root, place_of_id, names)


def _can_be_written(row: Row) -> bool:
    return row.sample is not None and all(fault.kind != "duplicate_id" for fault in row.faults)


def _with_captions(rows: Iterable[Row]) -> list[Row]:
    """The rows, each with the sentences of the others about its video (and clip) as captions, in order of time."""
    rows, described = list(rows), defaultdict(list)
    for number, row in enumerate(rows):
        if row.sample is not None:
            spans = [span for span in row.sample.spans if span_fault(*span, row.sample.duration) is None]
            captions = [(number, Caption(*span, row.sample.query.strip())) for span in spans]
            described[row.sample.video, row.sample.clip] += captions
    for number, row in enumerate(rows):
        if row.sample is not None and not row.sample.captions:
            others = [caption for origin, caption in described[row.sample.video, row.sample.clip] if origin != number]
            others.sort(key=lambda caption: (caption.start, caption.end))
            rows[number] = replace(row, sample=replace(row.sample, captions=tuple(others)))
    return rows


def _check_paths(source: str, inputs: Sequence[Path], output: Path, video_root: Path | None, durations: Sequence[Path]) -> None:
    problems = [] if source in SOURCES else [f"--source {source}: allowed: {', '.join(SOURCES)}"]
    for flag, paths in (("--input", inputs), ("--durations", durations)):
        problems += [f"{flag} {path}: is no file; give one that exists" for path in paths if not path.is_file()]
    if video_root is not None and not video_root.is_dir():
        problems.append(f"--video_root {video_root}: is no folder; give one that exists")
    if output.is_dir():
        problems.append(f"--output {output}: is a folder; give the name of a file")
    if any(output.exists() and path.exists() and output.samefile(path) for path in (*inputs, *durations)):
        problems.append(f"--output {output}: is an input; give another name")
    if problems:
        raise ConvertError("\n".join(problems))


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


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=list(SOURCES), required=True)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="annotation files of that source")
    parser.add_argument("--output", type=Path, required=True, help="the samples, JSON lines")
    parser.add_argument("--video_root", type=Path, help="folder of the videos: finds their endings, counts missing ones")
    parser.add_argument("--durations", type=Path, nargs="+", default=[], help="csv files with the columns id and length")
    parser.add_argument("--captions", action="store_true", help="fill captions with the other sentences of the same video")
    parser.add_argument("--bad_rows", choices=get_args(UnusableRows), default="error", help="rows that can't be samples")
    args = parser.parse_args(arguments)
    conversion = convert(
        args.source,
        args.input,
        args.output,
        video_root=args.video_root,
        durations=args.durations,
        captions=args.captions,
        bad_rows=args.bad_rows,
    )
    print(describe(conversion, args.output, args.video_root))


if __name__ == "__main__":
    with clean_exit():
        main()
