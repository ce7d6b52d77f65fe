"""What a training set shares with test sets: videos, by where they are from and by what they show, and queries, the same and
nearly the same.

    python -m taro.prepare.audit data/train.jsonl data/tvgbench.jsonl data/charades_sta_test.jsonl [--frames] [--json FILE]

The names of files say where a video is from: a YouTube or Charades id, often with a prefix and the times of a cut. `--frames`
looks at the pictures, too, and finds whole copies under other names (no cuts: other parts are other pictures). The exit status
is 1 where a video is shared.

F frames that are looked at of a video.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from taro.command_line import Parser, at_least, new_file
from taro.data.samples import Sample, load_samples
from taro.errors import clean_exit
from taro.files import write_json
from taro.messages import first_names, print_table
from taro.prepare.near_queries import find_near_queries, plain_query
from taro.spans import Span
from taro.video.file import VideoError
from taro.video.geometry import PatchGeometry, resize_frames
from taro.video.load import VideoSettings, load_video

FRAMES = 8  # F, evenly spaced
SIDE = 8  # a hash compares SIDE x SIDE pairs of neighbouring pixels
MOST_BITS = 6  # of SIDE * SIDE, in which the hashes of two pictures of the same may differ
LEAST_FRAMES = 6  # of F that show the same in copies
FLAT = 4.0  # grey levels: a picture whose pixels differ by less is like any other, and tells nothing
GEOMETRY = PatchGeometry(patch_size=8, merge_size=1, temporal_patch_size=1)

logger = logging.getLogger(__name__)


# ---- Where a video is from ----

_CLOCK = r"\d{2}:\d{2}:\d{2}[:.]\d{3}"
_ID = r"(?:v_)?[\w-]{11}|[0-9A-Z]{5}"  # YouTube's, Charades'
_CUT = re.compile(rf"(?P<whole>.+)_(?P<start>\d+\.\d+)_(?P<end>\d+\.\d+)|(?P<clocked>.+)_{_CLOCK}_{_CLOCK}")
_CUT_IN_SECONDS = re.compile(rf"(?P<whole>{_ID})_(?P<start>\d+(?:\.\d+)?)_(?P<end>\d+(?:\.\d+)?)")
_PREFIXED = re.compile(r"v_([\w-]{11})")


def source_id(video: str) -> str:
    """Where a video is from, by the name of its file: without folder, ending, ActivityNet's `v_` and the times of a cut."""
    name = Path(video).stem
    cut = _CUT.fullmatch(name) or _CUT_IN_SECONDS.fullmatch(name)
    if cut and cut["whole"] is None:
        name = cut["clocked"]
    elif cut and float(cut["start"]) < float(cut["end"]):
        name = cut["whole"]
    prefixed = _PREFIXED.fullmatch(name)
    return prefixed[1] if prefixed else name


# ---- What a video shows ----


def video_hash(video: str, clip: Span | None = None) -> np.ndarray:
    """(F, SIDE * SIDE) bool: of each frame which of two neighbouring pixels is the brighter one. A frame that shows next to
    nothing is all False.

    Raises:
        VideoError: the video can't be read.
    """
    settings = VideoSettings(fps=1.0, max_frames=FRAMES, min_frames=FRAMES, max_tokens=FRAMES * 64, timeout=60.0)
    frames = load_video(video, clip=clip, settings=settings, geometry=GEOMETRY).frames
    frames = torch.cat([frames, frames[-1:].expand(FRAMES - len(frames), -1, -1, -1)])  # of a video of a few pictures
    grey = resize_frames(frames, SIDE, SIDE + 1).float().mean(1)  # (F, SIDE, SIDE + 1)
    brighter = grey[:, :, 1:] > grey[:, :, :-1]
    shown = grey.flatten(1).std(1) >= FLAT  # (F,)
    return (brighter.flatten(1) & shown[:, None]).numpy()


def find_copies(train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of videos, one of each, that show the same in LEAST_FRAMES of their frames or more."""
    if not train or not test:
        return []
    names, own = list(train), np.stack(list(train.values()))  # (videos, F, bits)
    shown, pairs = own.any(2), []
    for name, other in test.items():
        same = ((own != other).sum(2) <= MOST_BITS) & shown & other.any(1)  # (videos, F)
        pairs += [(names[place], name) for place in np.flatnonzero(same.sum(1) >= LEAST_FRAMES)]
    return pairs


# ---- What two sets share ----


@dataclass(frozen=True)
class Overlap:
    """What a training set shares with one test set."""

    test: str  # file
    videos: int  # of the test set, by where they are from
    shared: tuple[str, ...]  # of them, those that are trained on
    copies: tuple[tuple[str, str], ...] | None  # files of train and test that show the same; None: not looked at
    queries: int  # of the test set
    same_queries: int  # word for word one of the training set
    same_on_shared: int  # of them, those about a shared video
    near: tuple[tuple[str, str], ...]  # others of the test set that are nearly one of the training set, with it
    near_on_shared: int  # of them, those about a shared video


def compare(train: Sequence[Sample], test: Sequence[Sample], name: str, copies: list[tuple[str, str]] | None) -> Overlap:
    """
    Args:
        train, test: the two sets.
        name: of the test set.
        copies: what `find_copies` has found.
    """
    sources = {source_id(sample.video) for sample in train}
    asked = {plain_query(sample.query) for sample in train}
    queries = [(plain_query(sample.query), source_id(sample.video) in sources) for sample in test]
    own = {source_id(sample.video) for sample in test}
    same = [on_shared for query, on_shared in queries if query in asked]
    nearest = find_near_queries(asked, (query for query, _ in queries if query not in asked))
    near = [on_shared for query, on_shared in queries if query in nearest]
    return Overlap(
        test=name,
        videos=len(own),
        shared=tuple(sorted(own & sources)),
        copies=None if copies is None else tuple(copies),
        queries=len(test),
        same_queries=len(same),
        same_on_shared=sum(same),
        near=tuple((query, nearest[query]) for query, _ in queries if query in nearest),
        near_on_shared=sum(near),
    )


def hash_videos(samples: Iterable[Sample], workers: int | None) -> dict[str, np.ndarray]:
    """(F, bits) of each video or clip, by its name; those that can't be compared are logged: unreadable ones are
    left out, flat ones are like no other."""
    parts = list(dict.fromkeys((sample.video, sample.clip) for sample in samples))
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(_hash_or_fault, *zip(*parts, strict=True)))
    faults = [str(one) for one in found if isinstance(one, VideoError)]
    if faults:
        logger.warning(f"{len(faults)} of {len(parts)} videos can't be looked at, the first: {faults[0]}")
    flat = sum(not isinstance(one, VideoError) and one.any(1).sum() < LEAST_FRAMES for one in found)
    if flat:
        logger.warning(f"{flat} of {len(parts)} videos show nearly one colour in most pictures: no copies of them are found")
    names = (video if clip is None else f"{video} from {clip[0]:g} to {clip[1]:g} s" for video, clip in parts)
    return {name: one for name, one in zip(names, found, strict=True) if not isinstance(one, VideoError)}


def _hash_or_fault(video: str, clip: Span | None) -> np.ndarray | VideoError:
    try:
        return video_hash(video, clip)
    except VideoError as error:
        return error


def short_names(paths: Sequence[str]) -> list[str]:
    """Names of files, each with as much of its folder as tells it from the others."""
    parts = [Path(path).parts for path in paths]

    def short(own: tuple[str, ...]) -> str:
        others = [other for other in parts if other != own]
        ends = (own[-n:] for n in range(1, len(own)))
        return str(Path(*next((end for end in ends if all(end != other[-len(end) :] for other in others)), own)))

    return [short(own) for own in parts]


def print_overlaps(overlaps: Sequence[Overlap]) -> None:
    rows, names = [], short_names([one.test for one in overlaps])
    for one, name in zip(overlaps, names, strict=True):
        copies = "–" if one.copies is None else str(len(one.copies))
        same = f"{one.same_queries} of {one.queries} ({one.same_on_shared})"
        near = f"{len(one.near)} ({one.near_on_shared})"
        rows.append([name, f"{len(one.shared)} of {one.videos}", copies, same, near])
    print_table(["test set", "videos in\ntraining", "copies by\npictures", "queries in\ntraining", "others\nnearly"], rows)
    print("in brackets: queries about videos that are in training, too; –: not looked at")
    for one, name in zip(overlaps, names, strict=True):
        if one.shared:
            print(f"{name}: {first_names(one.shared, 10)}")
        if one.copies:
            print(f"{name}: {first_names((f'{a} = {b}' for a, b in one.copies), 10)}")
        if one.near:
            print(f"{name}: {first_names((f'{a} ~ {b}' for a, b in dict.fromkeys(one.near)), 5)}")


def main(arguments: list[str] | None = None) -> list[Overlap]:
    """Print what is shared and return it."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("train", help="samples that a model is trained on")
    parser.add_argument("tests", nargs="+", metavar="TEST", help="samples that it is tested on")
    parser.add_argument("--frames", action="store_true", help="look at the pictures of the videos, too")
    parser.add_argument("--workers", type=at_least(1), help="videos that are read at a time")
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write all that is shared there")
    args = parser.parse_args(arguments)
    train = load_samples(args.train, bad_rows="keep")
    hashes = hash_videos(train, args.workers) if args.frames else None
    overlaps = []
    for path in args.tests:
        test = load_samples(path, bad_rows="keep")
        copies = None if hashes is None else find_copies(hashes, hash_videos(test, args.workers))
        overlaps.append(compare(train, test, path, copies))
    print_overlaps(overlaps)
    if args.json is not None:
        write_json(args.json, overlaps)
    return overlaps


if __name__ == "__main__":
    with clean_exit():
        found = main()
    sys.exit(any(one.shared or one.copies for one in found))
