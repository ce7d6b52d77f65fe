"""What a video file holds, and its pictures, by PyAV or decord.

Demuxing (without decoding) gives every picture's time, for both backends; the backends differ only in who decodes.
A picture's pts is its presentation time, an integer in units of the stream's time base.

PyAV decodes only what the wanted pictures need: nothing between the last of them before a keyframe and that keyframe,
and of H.264 no picture that none refers to. They come out as they would if all were decoded.
"""

import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

END_TOLERANCE = 1.5  # pictures by which a file may end before its header says; encoders round that time
DECORD_MISREADS = ("mpegts", "mpeg")  # containers without an index: it seeks to the wrong place, and says nothing
CLIP_SLACK = 1e-3  # seconds, and no more than half a tick: a clip's limit seldom falls on a tick
SKIPPED_AT_LEAST = 8  # pictures before a keyframe: to leave out fewer is not worth starting the decoder anew
# Of swscale's ways to scale the nearest to a bicubic resize of RGB; without FULL_CHR_H_INT colours have half the columns.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
DECORD_PROCESS = Path(__file__).with_name("decord_process.py")

Scale = Callable[[int, int], tuple[int, int]]  # from the height and width of an upright picture to those it is to have


class VideoError(Exception):
    """A video that cannot be used.

    Attributes: `path` of the file and `reason`, a phrase that says what is wrong with it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # as they came, so that pickling between processes rebuilds it
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, eq=False)
class PictureIndex:
    """The pictures of a video or of a clip of it, in the order of presentation; made by `read_index`."""

    pts: np.ndarray
    """(N,) int64, ascending."""
    start: float
    """Pts at which the clip's clock starts; between two ticks where the clip does."""
    end: float
    """Pts at which the clip ends, or the video where that is earlier."""
    keyframes: np.ndarray
    """(K,) int64, ascending: pts of the shown keyframes that were read, those outside of the clip among them."""
    origin: int
    """Pts that the container gives as the stream's start; decord counts from it."""
    time_base: Fraction
    """Seconds per pts unit."""
    rate: float | None
    """Pictures per second as the container states it."""
    container: str
    """libav's names of the container's format, with commas between."""
    skipped: int
    """Pictures before pts[0] that were read; where `in_order`, all of the file's."""
    hidden: bool
    """An edit list hides pictures that were read: they are decoded for the others' sake and never shown."""
    sought: int | None
    """Pts sought in the file to read on from the keyframe before it; None: the file was read from its start."""

    @property
    def in_order(self) -> bool:
        """Pts do not name decoded pictures (AVI stores none): the k-th decoded is the k-th shown."""
        return "avi" in self.container.split(",")

    def seconds(self) -> np.ndarray:
        """(N,) float64, in the clip's own clock."""
        return (self.pts - self.start) * float(self.time_base)

    @property
    def duration(self) -> float:
        """Seconds."""
        return (self.end - self.start) * float(self.time_base)


def read_index(path: Path, clip: tuple[float, float] | None) -> PictureIndex:
    """List the pictures of the file, or those within `clip` (seconds from its first picture), decoding nothing.

    With a clip only the packets around it are read (AVI: all before it, too). Raises VideoError where the file cannot
    be read, ends before its header says, or shows nothing within the clip.
    """
    if clip is None:
        index = _scan(path, None)
    else:
        first, time_base = _first_picture(path)
        limits = tuple(first + float(Fraction(second) / time_base) for second in clip)
        index = _scan(path, limits, seek=True) or _scan(path, limits)
    if len(index.pts) == 0:
        raise VideoError(path, f"shows nothing from {clip[0]:g} to {clip[1]:g} s, the clip lies outside of the video")
    if index.duration <= 0:
        raise VideoError(path, "its pictures have no duration")
    return index


def decode_pyav(
    path: Path, index: PictureIndex, wanted: list[int], timeout: float, scale: Scale | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode pictures by their places in the index, ascending; yields (place, (H, W, 3) uint8 RGB, upright), any order.

    With `scale` they are resized, in the decoder's own colour format, while they are converted to RGB. Raises VideoError
    if one is missing. `timeout` is not used.
    """
    remaining = {place if index.in_order else int(index.pts[place]): place for place in wanted}
    reformatter = VideoReformatter()
    for key, frame in _pictures(path, index, list(remaining)):
        if (place := remaining.pop(key, None)) is not None:
            if frame.is_corrupt:
                raise VideoError(path, f"the picture at {index.seconds()[place]:.2f} s of the clip is damaged")
            yield place, _converted(frame, reformatter, scale)
        if not remaining:
            return
    missing = min(remaining.values())
    first = f"the first at {index.seconds()[missing]:.2f} s of the clip"
    raise VideoError(path, f"{len(remaining)} of {len(wanted)} pictures cannot be decoded, {first}")


def decode_decord(
    path: Path, index: PictureIndex, wanted: list[int], timeout: float, scale: Scale | None
) -> Iterator[tuple[int, np.ndarray]]:
    """`decode_pyav` with decord, at native size: `scale` is not used.

    decord runs in a process of its own: it can hang inside native code, where a thread cannot be stopped. Raises
    VideoError after `timeout` seconds, ImportError where decord is missing.
    """
    if importlib.util.find_spec("decord") is None:
        raise ImportError("the video backend 'decord' needs decord: pip install decord, or set backend to 'pyav'")
    if index.hidden or index.container in DECORD_MISREADS:
        kind = "files with an edit list" if index.hidden else f"{index.container} files"
        raise VideoError(path, f"decord returns wrong pictures of {kind}; set the backend to pyav")
    seconds = [float((int(index.pts[place]) - index.origin) * index.time_base) for place in wanted]
    request = {"path": str(path.resolve()), "seconds": seconds}
    with _decord_process(path, request, timeout) as stream:
        for place in wanted:
            height, width = struct.unpack("<II", _read_exactly(stream, 8))
            pixels = _read_exactly(stream, height * width * 3)
            yield place, np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


BACKENDS = {"pyav": decode_pyav, "decord": decode_decord}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open the file's picture stream; what the file makes libav or the system raise becomes a VideoError."""
    if not path.is_file():
        raise VideoError(path, "is not a file" if path.exists() else "does not exist")
    try:
        if path.stat().st_size == 0:
            raise VideoError(path, "is empty")
        with av.open(str(path), metadata_errors="ignore") as container:
            yield container, _picture_stream(path, container)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be decoded ({type(error).__name__}: {error})") from error


def _picture_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    attached = av.stream.Disposition.attached_pic  # the cover of an audio file is a video stream, too
    moving = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not moving:
        raise VideoError(path, "has no picture stream")
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    if stream.codec_context is None:
        raise VideoError(path, "its pictures are of a kind that this libav cannot decode")
    stream.thread_type = "AUTO"
    return stream


def _packets(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[tuple[int, av.Packet]]:
    """The stream's packets that hold a picture, with its pts."""
    for packet in container.demux(stream):
        if packet.size == 0:  # a repeated picture, or the end
            continue
        pts = packet.dts if container.format.name == "avi" else packet.pts  # an AVI's decoding times are the even ones
        if pts is None:
            raise VideoError(path, "its pictures have no times")
        yield pts, packet


def _first_picture(path: Path) -> tuple[int, Fraction]:
    """Pts of the first picture shown (the least before the second keyframe), and the time base."""
    shown: list[int] = []
    with _opened(path) as (container, stream):
        for pts, packet in _packets(path, container, stream):
            if shown and packet.is_keyframe:
                break
            if not packet.is_discard:
                shown.append(pts)
        time_base = stream.time_base
    if not shown:
        raise VideoError(path, "holds no picture")
    return min(shown), time_base


def _scan(path: Path, limits: tuple[float, float] | None, seek: bool = False) -> PictureIndex | None:
    """The index of the pictures with pts within limits (both ends included), or of all.

    With `seek`, reads from the keyframe before the first limit on; None where the file cannot seek there.
    """
    durations: dict[int, int] = {}  # by pts, of all pictures read, whether within limits or not
    keyframes: list[int] = []
    with _opened(path) as (container, stream):
        if seek and (container.format.name == "avi" or not _seek(container, stream, int(limits[0]))):
            return None
        count, ended, hidden, whole = 0, True, False, True
        for pts, packet in _packets(path, container, stream):
            if seek and count == 0 and not (packet.is_keyframe and pts <= limits[0]):
                return None
            count += 1
            if limits is not None and packet.dts is not None and packet.dts > limits[1] + 1:
                ended = False  # no later packet is shown earlier than its decoding time
                break
            hidden |= packet.is_discard
            whole = not packet.is_corrupt
            if not packet.is_discard:
                durations[pts] = packet.duration or 0
                if packet.is_keyframe:
                    keyframes.append(pts)
        if not durations and seek:
            return None
        if not durations:
            raise VideoError(path, "holds no picture")
        if ended:
            _check_end(path, stream, durations, None if seek else count)
            if not whole:
                raise VideoError(path, "cannot be decoded to its end: the last picture is cut off")
        sought = int(limits[0]) if seek else None
        return _build_index(stream, container.format.name, durations, keyframes, limits, ended, hidden, sought)


def _seek(container: av.container.InputContainer, stream: av.VideoStream, pts: int) -> bool:
    """Go to a keyframe at or before pts; False where the file cannot."""
    try:
        container.seek(pts, stream=stream)
    except av.FFmpegError:
        return False
    return True


def _check_end(path: Path, stream: av.VideoStream, durations: dict[int, int], packets: int | None) -> None:
    """Raise VideoError where the header lists more packets, or promises more time, than the file has."""
    listed = len(getattr(stream, "index_entries", ()))  # PyAV >= 17
    if packets is not None and packets < listed:
        raise VideoError(path, f"is truncated: {packets} of {listed} pictures are there")
    end = max(pts + duration for pts, duration in durations.items())
    gap = max(*durations.values(), (end - min(durations)) / len(durations))
    promised = _promised_end(stream)
    if promised is not None and end + END_TOLERANCE * gap < promised:
        there, missing = (float(pts * stream.time_base) for pts in (end, promised - end))
        raise VideoError(path, f"is truncated: its pictures end at {there:.2f} s, {missing:.2f} s early")


def _promised_end(stream: av.VideoStream) -> float | None:
    """Pts of the end as the header has it: of the stream, or the tag that Matroska keeps per stream."""
    if stream.duration is not None:
        return (stream.start_time or 0) + stream.duration
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:  # no tag, or not in the form of hours:minutes:seconds
        return None
    return (hours * 3600 + minutes * 60 + seconds) / float(stream.time_base)


def _build_index(
    stream: av.VideoStream,
    container: str,
    durations: dict[int, int],
    keyframes: list[int],
    limits: tuple[float, float] | None,
    ended: bool,
    hidden: bool,
    sought: int | None,
) -> PictureIndex:
    """The index of the pictures (pts -> duration) within limits; `ended`: they go up to the video's end."""
    pts = np.array(sorted(durations), dtype=np.int64)
    rate = float(stream.average_rate) if stream.average_rate else None
    tick = float(stream.time_base)
    last = durations[int(pts[-1])] or (pts[-1] - pts[0]) / max(len(pts) - 1, 1) or (1 / (rate * tick) if rate else 0)
    start, end = float(pts[0]), float(pts[-1] + last)
    inside = np.ones(len(pts), dtype=bool)
    if limits is not None:
        slack = min(0.5, CLIP_SLACK / tick)
        inside = (pts >= limits[0] - slack) & (pts <= limits[1] + slack)
        start, end = limits[0], min(end, limits[1]) if ended else limits[1]
    return PictureIndex(
        pts=pts[inside],
        start=start,
        end=end,
        keyframes=np.array(sorted(keyframes), dtype=np.int64),
        origin=int(pts[0]) if stream.start_time is None else stream.start_time,
        time_base=stream.time_base,
        rate=rate,
        container=container,
        skipped=int(inside.argmax()),
        hidden=hidden,
        sought=sought,
    )


def _pictures(path: Path, index: PictureIndex, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded pictures with their keys (place or pts): those wanted (keys, ascending) and others, some of them twice."""
    if index.in_order:
        for number, frame in enumerate(_decoded(path)):
            yield number - index.skipped, frame
        return
    try:
        for frame in _decoded_runs(path, _runs(index, wanted), index.sought):
            yield frame.pts, frame
    except VideoError:  # decoding cannot start at a keyframe, or there is damage: the whole file decides
        pass
    for frame in _decoded(path):
        yield frame.pts, frame


def _runs(index: PictureIndex, wanted: list[int]) -> list[tuple[int | None, list[int]]]:
    """Wanted pts in runs that are decoded in one go, each with the pts of the keyframe to start at (None: the file's start).

    More than one only if at least half of the pictures are left out: each run starts the decoder anew.
    """
    runs: list[tuple[int | None, list[int]]] = []
    left_out = 0
    for pts, place in zip(wanted, np.searchsorted(index.keyframes, wanted, side="right") - 1, strict=True):
        keyframe = int(index.keyframes[place]) if place >= 0 else None
        if not runs:
            runs.append((keyframe, []))
        elif keyframe is not None and keyframe > (last := runs[-1][1][-1]):
            between = np.searchsorted(index.pts, keyframe) - np.searchsorted(index.pts, last) - 1
            if between >= SKIPPED_AT_LEAST:
                runs.append((keyframe, []))
                left_out += between
        runs[-1][1].append(pts)
    span = np.searchsorted(index.pts, wanted[-1]) - np.searchsorted(index.pts, wanted[0])
    return runs if 2 * left_out >= span else [(runs[0][0], wanted)]


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    """All pictures of the file."""
    with _opened(path) as (container, stream):
        yield from container.decode(stream)


def _decoded_runs(path: Path, runs: list[tuple[int | None, list[int]]], sought: int | None) -> Iterator[av.VideoFrame]:
    """The pictures of `_runs`, and others, each just as if all were decoded; `sought` as in PictureIndex.

    Ends early where that cannot be: a keyframe is not found, or does not come out first, or a picture is damaged.
    """
    with _opened(path) as (container, stream):
        if sought is not None and not _seek(container, stream, sought):
            return
        if len(runs) > 1:
            stream.thread_type = "SLICE"  # threads that decode a picture each are pictures ahead when a run ends
        packets = container.demux(stream)
        for keyframe, wanted in runs:
            started = keyframe is None
            for frame in _decoded_run(packets, stream.codec_context, keyframe, set(wanted)):
                if keyframe is not None and frame.pts is not None and frame.pts < keyframe:
                    continue  # it refers to pictures before the keyframe
                started = started or (frame.key_frame and frame.pts == keyframe)
                if not started or frame.is_corrupt:
                    return
                yield frame
            stream.codec_context.flush_buffers()


def _decoded_run(
    packets: Iterator[av.Packet], decoder: av.VideoCodecContext, keyframe: int | None, wanted: set[int]
) -> Iterator[av.VideoFrame]:
    """Drop packets up to the keyframe's, then decode until all wanted pictures are out."""
    begun = keyframe is None
    for packet in packets:
        begun = begun or (packet.is_keyframe and packet.pts == keyframe)
        if not begun:
            continue
        if decoder.name == "h264":  # other formats do not say reliably whether another picture refers to one
            decoder.skip_frame = "DEFAULT" if packet.is_keyframe or packet.pts in wanted else "NONREF"
        for frame in decoder.decode(packet):  # the last packet is empty, and empties the decoder
            wanted.discard(frame.pts)
            yield frame
        if not wanted:
            return


def _converted(frame: av.VideoFrame, reformatter: VideoReformatter, scale: Scale | None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned counter-clockwise by the display matrix's angle."""
    turns = round(frame.rotation / 90)
    size = coded = (frame.height, frame.width)
    if scale is not None:
        size = scale(*coded) if turns % 2 == 0 else scale(*reversed(coded))[::-1]
    flags = None if size == coded else SCALING
    height, width = size
    picture = reformatter.reformat(frame, width, height, "rgb24", interpolation=flags, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, turns))


@contextmanager
def _decord_process(path: Path, request: dict, timeout: float) -> Iterator[IO[bytes]]:
    """Run `decord_process.py` for a request; gives its output, kills it after `timeout` seconds or at exit."""
    expired = threading.Event()
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(DECORD_PROCESS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process:

            def stop() -> None:
                expired.set()
                process.kill()

            timer = threading.Timer(timeout, stop)
            timer.start()
            try:
                process.stdin.write(json.dumps(request).encode())
                process.stdin.close()
                yield process.stdout
            except (EOFError, BrokenPipeError) as error:
                timer.cancel()
                if expired.is_set():
                    raise VideoError(path, f"decord did not finish within {timeout:g} s") from error
                code = process.wait()
                raise VideoError(path, f"decord cannot read it ({_complaint(log, code)})") from error
            finally:
                timer.cancel()
                process.kill()


def _read_exactly(stream: IO[bytes], size: int) -> bytearray:
    data = bytearray(stream.read(size))
    if len(data) < size:
        raise EOFError
    return data


def _complaint(log: IO[bytes], code: int) -> str:
    """The line of an error output that says what was raised."""
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    raised = [line for line in lines if "Error: " in line and not line.startswith(" ")]
    return (raised or lines or [f"exit code {code}"])[-1]
