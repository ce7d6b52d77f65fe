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
from taro.data.difficulties import DIFFICULTY, difficulty_fault
from taro.data.rows import CLIP_TOLERANCE, FAULTS, Fault, Row, Sample
from taro.data.samples import query_key, save_samples
from taro.data.traces import TRACES, trace_fault
from taro.errors import TaroError, clean_exit
from taro.jsonl import write_lines
from taro.messages import first_lines, print_table
from taro.prepare.paths import path_problems
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
# Keys that only some runs read: what finds a fault in one, and which runs these are.
OF_SOME_RUNS = {TRACES: (trace_fault, "--stage sft"), DIFFICULTY: (difficulty_fault, "data.difficulty_weights")}
_EXAMPLES = 3


class CheckError(TaroError):
    """What was asked for can't be checked or written."""


@dataclass(frozen=True)
class CheckedFile:
    """Rows of an annotation file with all their faults (kinds of `CHECKS`), and what is known of the videos."""

    rows: tuple[Row, ...]
    durations: Mapping[str, float]  # seconds by path of the videos whose headers were read
    videos: int | None  # that were looked at, those that can't be opened among them; None: none was asked for

    @property
    def bad(self) -> list[Row]:
        return [row for row in self.rows if row.faults]

    @property
    def clips(self) -> int:
        """Number of samples that are a part of their file."""
        return sum(row.sample is not None and row.sample.clip is not None for row in self.rows)


def check_file(path: Path, *, video_root: Path | None = None, videos: bool = False, workers: int | None = None) -> CheckedFile:
    """Find all faults of an annotation file, one JSON object a line, in its own format or that of the public benchmark files;
    with `videos` also by their headers. CheckError where it has no rows, or none that can be read."""
    rows = read_rows(path, path.parent if video_root is None else video_root, workers=workers)
    if not rows:
        raise CheckError(f"{path}: no rows; one or more are needed")
    paths = {row.sample.video for row in rows if row.sample is not None}
    if not paths:
        first = f"the first, {rows[0].place}: {'; '.join(fault.message for fault in rows[0].faults)}"
        advice = "Other formats are converted first: python -m taro.prepare.convert --help"
        raise CheckError(f"{path}: none of {len(rows)} rows can be read; {first}\n{advice}")
    found = read_all_durations(sorted(map(Path, paths)), workers) if videos else {}
    headers = {video: found[Path(video)] for video in paths} if videos else {}
    durations = {video: header for video, header in headers.items() if not isinstance(header, VideoError)}
    return CheckedFile(tuple(_with_more_faults(rows, headers)), durations, len(headers) if videos else None)


def _with_more_faults(rows: Iterable[Row], headers: Mapping[str, float | VideoError]) -> Iterator[Row]:
    """The rows, with the faults of `CHECKS` that loading doesn't look for."""
    place_of_query: dict[tuple[Any, ...], str] = {}
    for row in rows:
        faults, sample = list(row.faults), row.sample
        if sample is not None:
            for i, (before, caption) in enumerate(pairwise(sample.captions), start=1):
                if caption.start < before.start:
                    what = f"captions[{i}]: starts at {caption.start}, the one before it at {before.start}"
                    faults.append(Fault("captions_unordered", what))
                    break
            first = place_of_query.setdefault(query_key(sample), row.place)
            if first != row.place:
                faults.append(Fault("duplicate_query", f"query, spans and video are those of {first}"))
            if (header := headers.get(sample.video)) is not None:
                faults += _file_faults(sample, header)
        yield replace(row, faults=tuple(faults))


def _file_faults(sample: Sample, header: float | VideoError) -> Iterator[Fault]:
    if isinstance(header, VideoError):
        missing = header.reason == "does not exist"
        yield Fault("missing_video" if missing else "unreadable_video", f"video: {header}")
    elif sample.clip is not None and sample.clip[1] > header + CLIP_TOLERANCE:
        yield Fault("clip_outside_file", f"clip: got {list(sample.clip)}; the file ends at {header:.2f}")
    elif sample.clip is None and abs(header - sample.duration) > CLIP_TOLERANCE:
        yield Fault("duration_mismatch", f"duration: got {sample.duration}; the file has {header:.2f} s")


# ---- Reports ----


def make_report(path: Path, checked: CheckedFile) -> dict[str, Any]:
    """All that was found, as JSON: the rows by kinds of faults, in the order of `CHECKS`, without those that no row has."""
    kinds = {}
    for kind, meaning in CHECKS.items():
        rows = [
            {"place": row.place, "id": row.sample and row.sample.id, "message": "; ".join(messages)}
            for row in checked.bad
            if (messages := [fault.message for fault in row.faults if fault.kind == kind])
        ]
        if rows:
            kinds[kind] = {"meaning": meaning, "count": len(rows), "rows": rows}
    counts = {"rows": len(checked.rows), "clips": checked.clips, "bad_rows": len(checked.bad), "videos": checked.videos}
    return {"file": str(path), **counts, "kinds": kinds, "remarks": list(_remarks(checked.rows))}


def _remarks(rows: Iterable[Row]) -> Iterator[str]:
    """What only some runs would refuse; such rows are no bad ones."""
    for name, (find_fault, runs) in OF_SOME_RUNS.items():
        there = [(row.place, row.sample.extra[name]) for row in rows if row.sample and row.sample.extra.get(name) is not None]
        refused = [f"{place}: {fault}" for place, value in there if (fault := find_fault(value)) is not None]
        if refused:
            yield f"{len(refused)} rows have {name} that a run with {runs} refuses, the first: {refused[0]}"


def print_report(report: Mapping[str, Any]) -> None:
    """Counts as a table, and the first rows of each kind."""
    looked = "none" if report["videos"] is None else report["videos"]
    counts = f"{report['bad_rows']} of {report['rows']} rows have a fault; {report['clips']} are clips of a longer file"
    print(f"{report['file']}: {counts}; videos looked at: {looked}")
    kinds = report["kinds"]
    if kinds:
        print_table(["fault", "rows", "meaning"], [(kind, str(own["count"]), own["meaning"]) for kind, own in kinds.items()])
    for remark in report["remarks"]:
        print(remark)
    for kind, own in kinds.items():
        named = [(row["place"] + (f" ({row['id']})" if row["id"] else ""), row["message"]) for row in own["rows"]]
        for line in first_lines([f"{place}: {message}" for place, message in named], _EXAMPLES):
            print(f"{kind}: {line}")


# ---- Command ----


def changes_file(output: Path) -> Path:
    """Where the record of the changes in `output` is."""
    return output.with_name(f"{output.name}.changes.jsonl")


def _list_problems(args: argparse.Namespace, output: Path | None) -> list[str]:
    written = [("--report", args.report), ("--output", output), ("--output", output and changes_file(output))]
    problems = path_problems([("file", args.file)], [("--video_root", args.video_root)], written)
    if args.output is not None and output is None:
        problems.append(f"--output {args.output}: nothing is written without --fix or --drop; give one of them")
    if args.workers is not None and args.workers < 1:
        problems.append(f"--workers {args.workers}: must be at least 1")
    return problems


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="samples or a public benchmark file, one JSON object a line")
    parser.add_argument("--video_root", type=Path, help="folder that relative videos start from; the file's own unless given")
    parser.add_argument("--videos", action="store_true", help="read the videos' headers too")
    mend = parser.add_mutually_exclusive_group()
    mend.add_argument("--fix", action="store_true", help="write a copy in which what can be mended is mended")
    mend.add_argument("--drop", action="store_true", help="write a copy without the rows that have a fault")
    parser.add_argument("--output", type=Path, help="the copy; NAME.fixed.jsonl or NAME.good.jsonl beside FILE unless given")
    parser.add_argument("--report", type=Path, help="write all that was found as JSON")
    parser.add_argument("--workers", type=int, help="processes that read headers; one for each core unless given")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    args = _parser().parse_args(arguments)
    output = None
    if args.fix or args.drop:
        output = args.output or args.file.with_name(f"{args.file.stem}.{'fixed' if args.fix else 'good'}.jsonl")
    if problems := _list_problems(args, output):
        raise CheckError("\n".join(problems))
    checked = check_file(args.file, video_root=args.video_root, videos=args.videos, workers=args.workers)
    report = make_report(args.file, checked)
    print_report(report)
    if args.report is not None:
        write_lines([report], args.report)
    if output is None:
        return 1 if checked.bad else 0
    samples, changes = fix_rows(checked.rows, checked.durations) if args.fix else drop_rows(checked.rows)
    if not samples:
        raise CheckError(f"none of {len(checked.rows)} rows is left; nothing was written")
    write_lines(map(asdict, changes), changes_file(output))
    save_samples(samples, output, relative_to=output.parent if args.video_root is None else args.video_root)
    print(f"{output}: {len(samples)} of {len(checked.rows)} rows; what was changed: {changes_file(output)}")
    return 0


if __name__ == "__main__":
    with clean_exit():
        sys.exit(main())
