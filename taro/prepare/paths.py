"""What of the paths that the commands of this room get can't work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from taro.jsonl import ResumeError, Shard

Flagged = Iterable[tuple[str, "Path | None"]]  # flags with their values; None: not given


def path_problems(inputs: Flagged, folders: Flagged = (), outputs: Flagged = ()) -> list[str]:
    """A line for each path that can't work. `outputs` are files to write, none of which may be an input or another output."""
    inputs = [(flag, path) for flag, path in inputs if path is not None]
    problems = [f"{flag} {path}: no such file" for flag, path in inputs if not path.is_file()]
    problems += [f"{flag} {path}: no such folder" for flag, path in folders if path is not None and not path.is_dir()]
    taken = [path for _, path in inputs]
    for flag, path in outputs:
        if path is None:
            continue
        if any(_is_same(path, other) for other in taken):
            problems.append(f"{flag} {path}: is an input or another output; choose another")
        elif path.is_dir():
            problems.append(f"{flag} {path}: is a folder; give the name of a file")
        taken.append(path)
    return problems


def _is_same(path: Path, other: Path) -> bool:
    both_there = path.exists() and other.exists()
    return path.resolve() == other.resolve() or (both_there and path.samefile(other))


def resumable_problems(
    input: str, output: str, video_root: str | None, shard: str | None, folder: Path | None
) -> list[str]:
    """What can't work of the flags of a command that fills in a samples file, and goes on with what is in `folder`; None: it
    begins anew each time."""
    source, output, root = Path(input), Path(output), video_root and Path(video_root)
    problems = path_problems([("--input", source)], [("--video_root", root)], [("--output", output)])
    if output.suffix != ".jsonl":
        problems.append(f"--output {output}: must end in .jsonl")
    elif output.is_file() and not (folder and folder.exists()) and not _is_same(output, source):
        problems.append(f"--output {output}: exists already; choose another, or delete it")
    try:
        Shard.parse(shard)
    except ResumeError as error:
        problems.append(str(error))
    return problems
