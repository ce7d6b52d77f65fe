"""Damaged copies of a video: what broken downloads, full disks and mistakes leave behind."""

from __future__ import annotations

import os
import random
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import pytest

REAL_VIDEO = Path(__file__).parents[3] / "shared" / "videos" / "OHOFG.mp4"
SECONDS = 5.0  # of the real video, which is long


@dataclass(frozen=True)
class Damage:
    """One way to make a bad copy: `make` gets the path, the intact bytes and a seeded generator."""

    make: Callable[[Path, bytes, random.Random], None]
    expected: str
    """What it gives: an `error`, or the frames of the intact video where nothing of its pictures was hit (`harmless`).
    `mostly`: one of these, but wrong bytes that make a valid stream give other frames. `any`: a changed header may give
    other times, and so other frames, without a contradiction."""
    seeded: bool = False
    """It differs from copy to copy."""


def changes(change: Callable[[bytearray, random.Random], None], expected: str) -> Damage:
    """The intact bytes, changed in place, each time in another way."""

    def make(path: Path, data: bytes, rng: random.Random) -> None:
        changed = bytearray(data)
        change(changed, rng)
        path.write_bytes(changed)

    return Damage(make, expected, seeded=True)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def cut_tail(data: bytearray, rng: random.Random) -> None:
    del data[-rng.randrange(1, 2000) :]


def lose_start(data: bytearray, rng: random.Random) -> None:
    del data[: rng.randrange(8, 4000)]


def lose_middle(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 20_000)]


def insert(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.randbytes(rng.randrange(1, 2000))


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 5, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header(data: bytearray, rng: random.Random) -> None:
    """In the table of contents, which is small."""
    start = data.find(b"moov")
    for _ in range(rng.choice([1, 3])):
        data[rng.randrange(start + 4, min(len(data), start + 4000))] = rng.randrange(256)


def overwrite(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    end = min(start + rng.randrange(200, 4000), len(data))
    data[start:end] = rng.randbytes(end - start)


def never_written(data: bytearray, rng: random.Random) -> None:
    """Blocks of a file system."""
    start = rng.randrange(len(data)) // 512 * 512
    end = min(start + 512 * rng.randrange(1, 9), len(data))
    data[start:end] = bytes(end - start)


def tail_never_written(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) // 10, len(data))
    data[start:] = bytes(len(data) - start)


def empty(path: Path, data: bytes, rng: random.Random) -> None:
    path.touch()


def text(path: Path, data: bytes, rng: random.Random) -> None:
    path.write_text("<html>404 Not Found</html>\n" * 50)


def directory(path: Path, data: bytes, rng: random.Random) -> None:
    path.mkdir()


def missing(path: Path, data: bytes, rng: random.Random) -> None:
    pass


def pipe(path: Path, data: bytes, rng: random.Random) -> None:
    os.mkfifo(path)


def sound_only(path: Path, data: bytes, rng: random.Random) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


def no_pictures(path: Path, data: bytes, rng: random.Random) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        container.add_stream("libx264", rate=25).width = 64
        container.streams.video[0].height = 48
        container.start_encoding()


def unreadable(path: Path, data: bytes, rng: random.Random) -> None:
    path.write_bytes(data)
    path.chmod(0)


DAMAGES = {
    "cut": changes(cut, "harmless"),
    "cut_tail": changes(cut_tail, "harmless"),
    "lose_start": changes(lose_start, "error"),
    "lose_middle": changes(lose_middle, "harmless"),
    "insert": changes(insert, "harmless"),
    "flip_bits": changes(flip_bits, "mostly"),
    "flip_header": changes(flip_header, "any"),
    "overwrite": changes(overwrite, "mostly"),
    "never_written": changes(never_written, "harmless"),
    "tail_never_written": changes(tail_never_written, "harmless"),
    "empty": Damage(empty, "error"),
    "text": Damage(text, "error"),
    "directory": Damage(directory, "error"),
    "missing": Damage(missing, "error"),
    "pipe": Damage(pipe, "error"),
    "sound_only": Damage(sound_only, "error"),
    "no_pictures": Damage(no_pictures, "error"),
    "unreadable": Damage(unreadable, "error"),
}


@pytest.fixture(scope="session")
def damages() -> dict[str, Damage]:
    """Those that mean something to this user."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return {name: damage for name, damage in DAMAGES.items() if not (root and name == "unreadable")}


@pytest.fixture(scope="session")
def intact(video_file, tmp_path_factory) -> Path:
    """The start of a video from a camera, with its sound, where this checkout has it; else a synthetic video."""
    if not REAL_VIDEO.exists():
        return Path(video_file)
    path = tmp_path_factory.mktemp("intact") / "v.mp4"
    with av.open(str(REAL_VIDEO)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in source.streams if stream.type != "data"}
        for packet in source.demux(*[source.streams[index] for index in streams]):
            if packet.dts is not None and packet.dts * packet.time_base < SECONDS:
                packet.stream = streams[packet.stream_index]
                copy.mux(packet)
    return path
