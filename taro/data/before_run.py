"""What can be said about samples before a model is loaded: whether their videos are there, whether a warm-up has captions,
whether what is held out is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

from taro.data.samples import Sample, SampleError, query_key
from taro.messages import first_names, list_problems
from taro.tasks import find_task

AT_ONCE = 32  # questions to a file system that may be on a network, where each takes a millisecond and more


def find_missing(videos: Iterable[str]) -> set[str]:
    """Those that there is no file of. Each is asked about once, by several threads."""
    distinct = set(videos)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return {video for video, there in zip(distinct, threads.map(os.path.exists, distinct), strict=True) if not there}


def look_for_videos(
    videos: Sequence[str], *, of: str, folder: str | os.PathLike[str], setting: str, largest_share: float | None = None
) -> list[str]:
    """A line that says how many samples have no video, where there are some; SampleError where none has.

    Args:
        videos: Path of each sample's.
        of: What names them, for messages: the setting and the file.
        folder: That relative paths start from, as the `setting` says.
        largest_share: Of samples that may fail before the run ends (`failure_limit.largest_share`); None: all may.
    """
    missing = find_missing(videos)
    if not missing:
        return []
    lacking = [video for video in dict.fromkeys(videos) if video in missing]
    if len(missing) == len(set(videos)):
        raise SampleError(
            f"{of}: not one of its {len(missing)} videos is there. Relative paths start from {folder}, so the first should be "
            f"{lacking[0]}; set {setting} to the folder that has them"
        )
    lost = sum(video in missing for video in videos)
    lost_samples = f"{lost} of {len(videos)} samples have no video and will count as failed"
    line = f"{of}: {lost_samples}; missing: {first_names(lacking)}; see {setting}"
    if largest_share is not None and lost > largest_share * len(videos):
        line += f". That is more than failure_limit.largest_share = {largest_share:g} allows: the run will be ended"
    return [line]


def check_samples(
    samples: Mapping[str, Sequence[Sample]],
    files: Mapping[str, str | None],
    video_root: str | None,
    *,
    warmup_epochs: float,
    largest_share: float,
) -> list[str]:
    """What is odd about the samples of a training run but may be meant, a line each.

    Args:
        samples, files: By split: train, validation, and test where there is one.
        video_root: Folder that relative videos start from; None: the folder of each file.
        warmup_epochs: With constructed paths (`curriculum.warmup_epochs`).
        largest_share: Of training or validation samples that may fail (`failure_limit.largest_share`).

    Raises:
        SampleError: Not one video of a split is there, or no training sample has captions although there is a warm-up.
    """
    problems, remarks = [], []
    for split, own in samples.items():
        try:
            remarks += look_for_videos(
                [sample.video for sample in own],
                of=f"data.{split}_file = {files[split]}",
                folder=Path(files[split]).parent if video_root is None else video_root,
                setting="data.video_root",
                largest_share=None if split == "test" else largest_share,
            )
        except SampleError as error:
            problems.append(str(error))
    if warmup_epochs > 0:
        _check_paths(samples["train"], f"data.train_file = {files['train']}", warmup_epochs, problems, remarks)
    if problems:
        raise SampleError(list_problems("can't train:", problems))
    keys = {split: [_key(sample) for sample in own] for split, own in samples.items()}
    for one, other in combinations(samples, 2):
        known = set(keys[one])
        if shared := [sample.id for sample, key in zip(samples[other], keys[other], strict=True) if key in known]:
            names = f"data.{one}_file = {files[one]} and data.{other}_file = {files[other]}"
            count = f"{len(shared)} of the {len(samples[other])} samples of the latter"
            remarks.append(f"{names}: {count} are in both, with video, query and spans; the first: {shared[0]}")
    return remarks


def _check_paths(train: Sequence[Sample], of: str, warmup_epochs: float, problems: list[str], remarks: list[str]) -> None:
    """Add what is to be said of samples that constructed paths can't be made for, in a run that begins with such paths."""
    warmup, count = f"curriculum.warmup_epochs = {warmup_epochs}", len(train)
    pathless = [sample.task for sample in train if find_task(sample.task).opening is None]
    bare = [sample.id for sample in train if not sample.captions and find_task(sample.task).opening is not None]
    if pathless:
        tasks = first_names(dict.fromkeys(pathless))
        some = f"{len(pathless)} of {count} samples are of a task without constructed paths ({tasks})"
        if len(pathless) == count:
            problems.append(f"{of}: {some}, and {warmup} asks for such paths; set it to 0")
        else:
            remarks.append(f"{of}: {some}; in the warm-up ({warmup}) they are explored freely, too")
    if bare and len(bare) + len(pathless) == count:
        problems.append(
            f"{of}: not one of its samples has captions, and {warmup} asks for reasoning paths that are made of them; set "
            "it to 0, or make captions: python -m taro.prepare.caption --help"
        )
    elif bare:
        some = f"{len(bare)} of {count} samples have no captions, the first is {bare[0]}"
        remarks.append(f"{of}: {some}; in the warm-up ({warmup}) they are explored freely, too")


def _key(sample: Sample) -> tuple:
    """Ids tell nothing: files of one source may count from 0 each."""
    return os.path.abspath(sample.video), *query_key(sample)[1:]
