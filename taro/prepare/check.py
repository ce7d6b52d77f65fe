"""What is wrong with an annotation file, and a copy of it without that:

    python -m taro.prepare.check data/tvgbench.jsonl
    python -m taro.prepare.check data/train.jsonl --video_root data/videos --videos --fix --output data/train.fixed.jsonl

Prints how many rows have which fault, and examples; `--report` writes all of them as JSON. With `--videos` the headers of the
files are read too (nothing is decoded: damage behind a header is not seen). `--fix` mends what can be mended, writes durations
that are not there (the clip's, or the file's), and leaves out the rest, `--drop` leaves out every row with a fault: both write
a new file, and beside it FILE.changes.jsonl with a record of each change. The input is never written to. What is mended, and
how: `taro.prepare.repair.fix_rows`.

The exit status is 0 where nothing is wrong, or was mended; 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from taro.command_line import Parser
from taro.data.annotation_file import read_rows
from taro.data.rows import CLIP_TOLERANCE, FAULTS, Fault, Row, Sample
from taro.data.samples import query_key, save_samples
from taro.errors import TaroError, clean_exit
from taro.jsonl import write_lines
from taro.messages import first_lines, print_table
from taro.prepare.repair import drop_rows, fix_rows
from taro.video.file import VideoError
from taro.video.header import read_all_durations

# What loading a file finds, and what only this command looks for.
CHECKS = {
    **FAULTS,
    "captions_unordered": "a caption starts before the one before it",
    "duplicate_query": "an earlier row has the same query, spans and video",
    "missing_video": "the video is missing",
    "unreadable_video": "the video can't be opened",
    "duration_mismatch": "the duration is not the file's",
    "clip_outside_file": "the clip ends after the file",
}
_EXAMPLES = 3


class CheckError(TaroError):
    """What was asked for can't be checked or written."""


@dataclass(frozen=True)
class CheckedFile:
    """Rows of an annotation file with all their faults (kinds of `CHECKS`), and what is known of the videos."""

    rows: tuple[Row, ...]
    durations: Mapping[str, float]
    """Seconds by path of the videos whose headers were read."""
    videos: int | None
    """Number of videos that were looked at, those that can't be opened among them; None: none was asked for."""

    @property
    def bad(self) -> list[Row]:
        return [row for row in self.rows if row.faults]

    @property
    def clips(self) -> int:
        """Number of samples that are a part of their file."""
        return sum(row.sample is not None and row.sample.clip is not None for row in self.rows)


def check_file(path: Path, *, video_root: Path | None = None, videos: bool = False, workers: int | None = None) -> CheckedFile:
    """Find all faults of an annotation file, in its own format or that of the public benchmark files.

    Args:
        path: One JSON object a line.
        video_root: Folder that relative videos start from; the file's own unless given.
        videos: Read the videos' headers too.
        workers: Processes that do; one for each core unless given.

    Raises:
        CheckError: The file has no rows, or none that can be read.
        OSError: It can't be read.
    """
    rows = read_rows(path, path.parent if video_root is None else video_root, workers=workers)
    if not rows:
        raise CheckError(f"{path}: no rows; one or more are needed")
    if all(row.sample is None for row in rows):
        first = f"the first, {rows[0].place}: {'; '.join(fault.message for fault in rows[0].faults)}"
        advice = "Other formats are converted first: python -m taro.prepare.convert --help"
        raise CheckError(f"{path}: none of {len(rows)} rows can be read; {first}\n{advice}")
    headers: dict[str, float | VideoError] = {}
    if videos:
        found = read_all_durations(sorted({Path(row.sample.video) for row in rows if row.sample is not None}), workers)
        headers = {row.sample.video: found[Path(row.sample.video)] for row in rows if row.sample is not None}
    durations = {video: header for video, header in headers.items() if not isinstance(header, VideoError)}
    return CheckedFile(tuple(_with_more_faults(rows, headers)), durations, len(headers) if videos else None)


def _with_more_faults(rows: Iterable[Row], headers: Mapping[str, float | VideoError]) -> Iterator[Row]:
    """The rows, with the faults of `CHECKS` that loading doesn't look for; `headers` by the video's path."""
    place_of_query: dict[tuple[Any, ...], str] = {}
    for row in rows:
        if row.sample is None:
            yield row
            continue
        faults = [*row.faults, *_caption_order(row.sample)]
        first = place_of_query.setdefault(query_key(row.sample), row.place)
        if first != row.place:
            faults.append(Fault("duplicate_query", f"query, spans and video are those of {first}"))
        if row.sample.video in headers:
            faults += _file_faults(row.sample, headers[row.sample.video])
        yield replace(row, faults=tuple(faults))


def _caption_order(sample: Sample) -> Iterator[Fault]:
    starts = [caption.start for caption in sample.captions]
    for i, (before, start) in enumerate(pairwise(starts), start=1):
        if start < before:
            yield Fault("captions_unordered", f"captions[{i}]: starts at {start}, the one before it at {before}")
            return


def _file_faults(sample: Sample, header: float | VideoError) -> Iterator[Fault]:
    if isinstance(header, VideoError):
        missing = header.reason == "does not exist"
        yield Fault("missing_video" if missing else "unreadable_video", f"video: {header}")
    elif sample.clip is not None and sample.clip[1] > header + CLIP_TOLERANCE:
        yield Fault("clip_outside_file", f"clip: got {list(sample.clip)}; the file ends at {header:.2f}")
    elif sample.clip is None and abs(header - sample.duration) > CLIP_TOLERANCE:
        yield Fault("duration_mismatch", f"duration: got {sample.duration}; the file has {header:.2f} s")


# ---- Reports ----


def count_faults(checked: CheckedFile) -> dict[str, list[tuple[Row, Fault]]]:
    """Rows by the kind of their faults, each once for a kind, in the order of `CHECKS`; kinds that no row has are left out."""
    found: dict[str, dict[str, tuple[Row, Fault]]] = {kind: {} for kind in CHECKS}
    for row in checked.rows:
        for fault in row.faults:
            found[fault.kind].setdefault(row.place, (row, fault))
    return {kind: list(rows.values()) for kind, rows in found.items() if rows}


def make_report(path: Path, checked: CheckedFile) -> dict[str, Any]:
    """All that was found, as JSON."""
    kinds = {
        kind: {
            "meaning": CHECKS[kind],
            "count": len(rows),
            "rows": [
                {"place": row.place, "id": _id(row), "message": "; ".join(f.message for f in row.faults if f.kind == kind)}
                for row, _ in rows
            ],
        }
        for kind, rows in count_faults(checked).items()
    }
    rows = {"rows": len(checked.rows), "clips": checked.clips, "bad_rows": len(checked.bad)}
    return {"file": str(path), **rows, "videos": checked.videos, "kinds": kinds}


def print_report(path: Path, checked: CheckedFile) -> None:
    """Counts as a table, and the first rows of each kind."""
    looked = "none" if checked.videos is None else checked.videos
    counts = f"{len(checked.bad)} of {len(checked.rows)} rows have a fault; {checked.clips} are clips of a longer file"
    print(f"{path}: {counts}; videos looked at: {looked}")
    faults = count_faults(checked)
    if faults:
        print_table(["fault", "rows", "meaning"], [(kind, str(len(rows)), CHECKS[kind]) for kind, rows in faults.items()])
    for kind, rows in faults.items():
        lines = [f"{row.place}{f' ({_id(row)})' if row.sample else ''}: {fault.message}" for row, fault in rows]
        for line in first_lines(lines, _EXAMPLES):
            print(f"{kind}: {line}")


def _id(row: Row) -> str | None:
    return None if row.sample is None else row.sample.id


# ---- Command ----


def write_mended(checked: CheckedFile, output: Path, *, fix: bool, relative_to: Path) -> tuple[int, Path]:
    """Write the rows, mended or only the good ones, and the record of changes.

    Video paths are relative to `relative_to`. Returns the number of samples and the record's path. Raises CheckError where
    no row is left.
    """
    samples, changes = fix_rows(checked.rows, checked.durations) if fix else drop_rows(checked.rows)
    if not samples:
        raise CheckError(f"none of {len(checked.rows)} rows is left; nothing was written")
    record = changes_file(output)
    write_lines(map(asdict, changes), record)
    save_samples(samples, output, relative_to=relative_to)
    return len(samples), record


def changes_file(output: Path) -> Path:
    """Where the record of the changes in `output` is."""
    return output.with_name(f"{output.name}.changes.jsonl")


def _check_paths(args: argparse.Namespace, output: Path | None) -> None:
    problems = [] if args.file.is_file() else [f"{args.file}: is no file; give one that exists"]
    if args.video_root is not None and not args.video_root.is_dir():
        problems.append(f"--video_root {args.video_root}: is no folder; give one that exists")
    if args.output is not None and output is None:
        problems.append(f"--output {args.output}: nothing is written without --fix or --drop; give one of them")
    if args.workers is not None and args.workers < 1:
        problems.append(f"--workers {args.workers}: must be at least 1")
    written = [("--report", args.report)]
    if output is not None:
        written += [("--output", output), ("--output", changes_file(output))]
    taken = [args.file.resolve()]
    for flag, path in written:
        if path is None:
            continue
        if path.resolve() in taken or (path.exists() and args.file.exists() and path.samefile(args.file)):
            problems.append(f"{flag} {path}: is the input or another output; give another name")
        elif path.is_dir():
            problems.append(f"{flag} {path}: is a folder; give the name of a file")
        taken.append(path.resolve())
    if problems:
        raise CheckError("\n".join(problems))


def _parser() -> Parser:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="samples or a public benchmark file, one JSON object a line")
    parser.add_argument("--video_root", type=Path, help="folder that relative videos start from; the file's own unless given")
    parser.add_argument("--videos", action="store_true", help="read the videos' headers too")
    mend = parser.add_mutually_exclusive_group()
    mend.add_argument("--fix", action="store_true", help="write a copy in which what can be mended is mended")
    mend.add_argument("--drop", action="store_true", help="write a copy without the rows that have a fault")
    parser.add_argument("--output", type=Path, help="the copy; NAME.fixed.jsonl or NAME.good.jsonl beside FILE unless given")
    parser.add_argument("--report", type=Path, help="write all that was found as JSON")
    parser.add_argument("--workers", type=int, default=None, help="processes that read headers; one for each core unless given")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    args = _parser().parse_args(arguments)
    output = None
    if args.fix or args.drop:
        output = args.output or args.file.with_name(f"{args.file.stem}.{'fixed' if args.fix else 'good'}.jsonl")
    _check_paths(args, output)
    checked = check_file(args.file, video_root=args.video_root, videos=args.videos, workers=args.workers)
    print_report(args.file, checked)
    if args.report is not None:
        write_lines([make_report(args.file, checked)], args.report)
    if output is None:
        return 1 if checked.bad else 0
    root = output.parent if args.video_root is None else args.video_root
    written, record = write_mended(checked, output, fix=args.fix, relative_to=root)
    print(f"{output}: {written} of {len(checked.rows)} rows; what was changed: {record}")
    return 0


if __name__ == "__main__":
    with clean_exit():
        sys.exit(main())
