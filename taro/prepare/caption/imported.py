"""Captions that were written by hand or come with a dataset, from JSON files or from a key of the samples."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taro.data.samples import Caption, Sample
from taro.prepare.caption.merging import arrange, check_events
from taro.prepare.caption.parsing import json_event
from taro.prepare.caption.settings import CaptionSettings
from taro.prepare.caption.videos import CaptionedVideo, CaptionError, SourceVideo, video_id

FORMS = '[[start, end, text], ...], [{"start", "end", "text"}, ...] or {"timestamps": [[start, end], ...], "sentences": [...]}'


@dataclass(frozen=True)
class _Found:
    """The captions filed for one video, or why there are none."""

    values: list[Any] | None = None
    failure: str | None = None


def import_captions(
    settings: CaptionSettings, samples: Sequence[Sample], videos: Sequence[SourceVideo]
) -> list[CaptionedVideo]:
    """The captions of all videos, checked like a model's.

    Raises:
        CaptionError: the file can't be read at all.
    """
    if settings.captions_key is not None:
        found = _from_rows(settings.captions_key, samples, settings.root)
    else:
        found = _from_files(Path(settings.captions), videos, settings.captions_clock)
    return [_caption(video, found[video.id], settings.captions_clock) for video in videos]


def _caption(video: SourceVideo, found: _Found, clock: str) -> CaptionedVideo:
    if found.values is None:
        return CaptionedVideo(video.id, video.duration, failure=found.failure)
    events = [json_event(value) for value in found.values]
    rejected = Counter({"not a start, an end and a text": events.count(None)})
    placed = _on_clock([event for event in events if event is not None], video, clock)
    checked, faults = check_events(placed, video.duration)
    captions, repeated = arrange(checked, video.duration)
    rejected = dict(+(rejected + faults + repeated))
    failure = None if captions else f"none of its {len(events)} captions can be used: {rejected}"
    return CaptionedVideo(video.id, video.duration, tuple(captions), failure, rejected=rejected)


def _on_clock(events: list[Caption], video: SourceVideo, clock: str) -> list[Caption]:
    """Captions in the clip's clock; of a whole file's captions the clip's part, cut at its limits."""
    if clock == "clip" or video.clip is None:
        return events
    start, end = video.clip
    inside = [event for event in events if event.start < end and event.end > start]
    return [Caption(max(event.start, start) - start, min(event.end, end) - start, event.text) for event in inside]


# ---- A key of the rows ----


def _from_rows(key: str, samples: Sequence[Sample], root: Path) -> dict[str, _Found]:
    values: dict[str, list[Any]] = {}
    for sample in samples:
        own = values.setdefault(video_id(sample, root), [])
        if key == "captions":
            filed = _Found([[caption.start, caption.end, caption.text] for caption in sample.captions])
        else:
            filed = _captions_of(sample.extra.get(key, []), f"{key} of {sample.id}")
        if filed.values is None:
            raise CaptionError(f"--captions_key {key}: {filed.failure}")
        own += [value for value in filed.values if value not in own]  # rows of one video may all have the whole list
    if not any(values.values()):
        raise CaptionError(f"--captions_key {key}: no row has captions there")
    return {id: _Found(own) if own else _Found(failure=f"no row of it has {key}") for id, own in values.items()}


# ---- Files ----


def _from_files(path: Path, videos: Sequence[SourceVideo], clock: str) -> dict[str, _Found]:
    uses = Counter(name for video in videos for name in video.names)
    files = Counter((name, video.path) for video in videos for name in video.names)
    stored = None if path.is_dir() else _read_file(path)
    if stored is not None and not isinstance(stored, dict):
        raise CaptionError(f"--captions {path}: must hold {{video id: captions}}, got a {type(stored).__name__}")
    found = {}
    for video in videos:
        names = [name for name in video.names if (name in stored if stored is not None else (path / f"{name}.json").is_file())]
        if not names:
            kind = "key" if stored is not None else "file"
            looked = ", ".join(name if stored is not None else f"{name}.json" for name in video.names)
            found[video.id] = _Found(failure=f"{path} has no {kind} of it: looked for {looked}")
            continue
        name = names[0]
        clips_of_one = clock == "file" and files[name, video.path] == uses[name]
        if uses[name] > 1 and not clips_of_one:
            found[video.id] = _Found(failure=f"{name} stands for {uses[name]} videos of the input: file it under {video.id}")
        elif stored is not None:
            found[video.id] = _captions_of(stored[name], name)
        else:
            found[video.id] = _from_file(path / f"{name}.json")
    return found


def _from_file(path: Path) -> _Found:
    try:
        return _captions_of(_read_file(path), str(path))
    except CaptionError as error:
        return _Found(failure=str(error))


def _read_file(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CaptionError(f"{path}: is not a readable JSON file ({error})") from None


def _captions_of(value: Any, where: str) -> _Found:
    if isinstance(value, dict) and "sentences" in value and isinstance(value.get("timestamps"), list):
        value = _zipped(value["timestamps"], value["sentences"])
    elif isinstance(value, dict):
        value = value.get("captions")
    if not isinstance(value, list):
        return _Found(failure=f"{where}: must be {FORMS}")
    return _Found(value)


def _zipped(times: list[Any], sentences: Any) -> list[Any] | None:
    if not isinstance(sentences, list) or len(times) != len(sentences):
        return None
    return [[time, sentence] for time, sentence in zip(times, sentences, strict=True)]
