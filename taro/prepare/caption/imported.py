"""Captions that were written by hand or come with a dataset, from JSON files or from a key of the samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taro.data.samples import Caption, Sample
from taro.prepare.caption.merging import arrange, check_events
from taro.prepare.caption.parsing import json_event
from taro.prepare.caption.report import CaptionedVideo
from taro.prepare.caption.settings import CaptionError, CaptionSettings
from taro.prepare.caption.videos import SourceVideo, video_id

FORMS = '[[start, end, text], ...], [{"start", "end", "text"}, ...] or {"timestamps": [[start, end], ...], "sentences": [...]}'

Found = list[Any] | str  # the captions filed for one video, or why there are none


def import_captions(
    settings: CaptionSettings, samples: Sequence[Sample], videos: Sequence[SourceVideo]
) -> list[CaptionedVideo]:
    """The captions of all videos, checked like a model's.

    Raises:
        CaptionError: the file can't be read at all, or no row has the key.
    """
    if settings.captions_key is not None:
        found = _from_rows(settings.captions_key, samples, settings.root)
    else:
        found = _from_files(Path(settings.captions), videos, settings.captions_clock)
    return [_check(video, found[video.id], settings.captions_clock) for video in videos]


def _check(video: SourceVideo, found: Found, clock: str) -> CaptionedVideo:
    if isinstance(found, str):
        return CaptionedVideo(video.id, video.duration, failure=found)
    events = [json_event(value) for value in found]
    rejected = Counter({"not a start, an end and a text": events.count(None)})
    placed = [event for event in events if event is not None]
    if clock == "file" and video.clip is not None:
        placed = _cut(placed, *video.clip)
    checked, faults = check_events(placed, video.duration)
    captions, repeated = arrange(checked, video.duration)
    rejected = dict(+(rejected + faults + repeated))
    failure = None if captions else f"none of its {len(events)} captions can be used: {rejected}"
    return CaptionedVideo(video.id, video.duration, tuple(captions), failure, rejected=rejected)


def _cut(events: list[Caption], start: float, end: float) -> list[Caption]:
    """Of a whole file's captions those of a clip, cut at its limits and in its clock."""
    inside = [event for event in events if event.start < end and event.end > start]
    return [Caption(max(event.start, start) - start, min(event.end, end) - start, event.text) for event in inside]


def _from_rows(key: str, samples: Sequence[Sample], root: Path) -> dict[str, Found]:
    found: dict[str, list[Any]] = {}
    for sample in samples:
        own = found.setdefault(video_id(sample, root), [])
        if key == "captions":
            filed = [[caption.start, caption.end, caption.text] for caption in sample.captions]
        else:
            filed = _captions_of(sample.extra.get(key, []), f"{key} of {sample.id}")
        if isinstance(filed, str):
            raise CaptionError(f"--captions_key {key}: {filed}")
        own += [value for value in filed if value not in own]  # rows of one video may all have the whole list
    if not any(found.values()):
        raise CaptionError(f"--captions_key {key}: no row has captions there")
    return {id: own or f"no row of it has {key}" for id, own in found.items()}


def _from_files(path: Path, videos: Sequence[SourceVideo], clock: str) -> dict[str, Found]:
    uses = Counter(name for video in videos for name in video.names)
    files = Counter((name, video.path) for video in videos for name in video.names)
    if path.is_dir():
        stored = {name: path / f"{name}.json" for name in uses if (path / f"{name}.json").is_file()}
    else:
        stored = _read_file(path)
        if not isinstance(stored, dict):
            raise CaptionError(f"--captions {path}: must hold {{video id: captions}}, got a {type(stored).__name__}")
    found = {}
    for video in videos:
        name = next((name for name in video.names if name in stored), None)
        if name is None:
            found[video.id] = f"{path} has nothing about it: looked for {', '.join(video.names)}"
        elif uses[name] > 1 and not (clock == "file" and files[name, video.path] == uses[name]):  # not clips of one file
            found[video.id] = f"{name} stands for {uses[name]} videos of the input: file it under {video.id}"
        elif isinstance(stored[name], Path):
            found[video.id] = _from_file(stored[name])
        else:
            found[video.id] = _captions_of(stored[name], name)
    return found


def _from_file(path: Path) -> Found:
    try:
        return _captions_of(_read_file(path), str(path))
    except CaptionError as error:
        return str(error)


def _read_file(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CaptionError(f"{path}: is not a readable JSON file ({error})") from None


def _captions_of(value: Any, where: str) -> Found:
    if isinstance(value, dict):
        times, sentences = value.get("timestamps"), value.get("sentences")
        if isinstance(times, list) and isinstance(sentences, list) and len(times) == len(sentences):
            return [list(pair) for pair in zip(times, sentences, strict=True)]
        value = value.get("captions")
    return value if isinstance(value, list) else f"{where}: must be {FORMS}"
