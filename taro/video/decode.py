"""The pictures of a video, decoded by PyAV or decord.

PyAV decodes only what the wanted pictures need: nothing between the last of them before a keyframe and that keyframe,
and of H.264 no picture that none refers to. They come out as they would if all were decoded.

Where a decoder notices damage in what it decodes, the video is an error: no picture is used that it made up in place of a
damaged one, nor one that may refer to such a picture. What it can't notice: wrong bytes that make a valid stream (random
ones in a tenth of the cases in H.264, in most in HEVC, VP8 and VP9) and, in H.264 with several threads, now and then damage
to a picture that no other refers to.
"""

import importlib.util
import json
import re
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from taro.video.file import VideoError, VideoFile
from taro.video.index import PictureIndex, seek_keyframe

DECORD_MISREADS = ("mpegts", "mpeg")  # containers without an index: it seeks to the wrong place, and says nothing
MARKED = ("h264", "mpeg4")  # formats whose decoder marks all pictures that it has patched up, if it may take its time
SKIPPED_AT_LEAST = 8  # pictures before a keyframe: to leave out fewer is not worth starting the decoder anew
# Of swscale's ways to scale the nearest to a bicubic resize of RGB; without FULL_CHR_H_INT colours have half the columns.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
DAMAGE = "conceal|damaged|error|illegal|invalid"  # what of a decoder's messages says so
DECORD_PROCESS = Path(__file__).with_name("decord_process.py")

Scale = Callable[[int, int], tuple[int, int]]  # from the height and width of an upright picture to those it is to have
KeyedFrames = Iterator[tuple[int | None, av.VideoFrame]]  # keys are pts, or places where the index is `in_order`


def decode_pyav(
    file: VideoFile, index: PictureIndex, wanted: list[int], scale: Scale | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode pictures by their places in the index, ascending; yields (place, (H, W, 3) uint8 RGB, upright), any order.

    With `scale` they are resized, in the decoder's own colour format, while they are converted to RGB. Of a place that comes
    twice the last picture counts. Raises VideoError if a picture is missing, or may be damaged: at the end, too.
    """
    places = {place if index.in_order else int(index.pts[place]): place for place in wanted}
    quick = _decode_all(file, index, places) if index.in_order else _decode_runs(file, index, list(places))
    try:
        yield from _chosen(file, index, places, quick, scale)
    except VideoError:  # decoding cannot start at a keyframe, or there may be damage: the whole file decides
        file.check_time()
        yield from _chosen(file, index, places, _decode_all(file, index, places, carefully=True), scale)


def decode_decord(
    file: VideoFile, index: PictureIndex, wanted: list[int], scale: Scale | None
) -> Iterator[tuple[int, np.ndarray]]:
    """`decode_pyav` with decord, at native size: `scale` is not used.

    decord runs in a process of its own, which is killed when the file's time is over: it can hang inside native code. What
    libav reports there is its only sign of damage. Raises ImportError where decord is missing.
    """
    if importlib.util.find_spec("decord") is None:
        raise ImportError("the video backend 'decord' needs decord: pip install decord, or set backend to 'pyav'")
    if index.hidden or index.container in DECORD_MISREADS:
        kind = "files with an edit list" if index.hidden else f"{index.container} files"
        raise file.error(f"decord returns wrong pictures of {kind}; set the backend to pyav")
    seconds = [float((int(index.pts[place]) - index.origin) * index.time_base) for place in wanted]
    request = {"path": str(file.path.resolve()), "seconds": seconds}
    with tempfile.TemporaryFile() as log:
        with _decord_process(file, request, log) as stream:
            for place in wanted:
                height, width = struct.unpack("<II", _read_exactly(stream, 8))
                pixels = _read_exactly(stream, height * width * 3)
                yield place, np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        damage = re.search(rf"^\[{index.codec} @ \w+\] (.*({DAMAGE}).*)$", _text(log), re.MULTILINE | re.IGNORECASE)
        if damage is not None:
            raise file.error(f"is damaged, decord's decoder reports: {damage[1]}")


BACKENDS = {"pyav": decode_pyav, "decord": decode_decord}


def _chosen(
    file: VideoFile, index: PictureIndex, places: dict[int, int], frames: KeyedFrames, scale: Scale | None
) -> Iterator[tuple[int, np.ndarray]]:
    """The pictures whose keys are in `places`, converted; VideoError if one is not among the frames or any is corrupt."""
    missing, reformatter = dict(places), VideoReformatter()
    for key, frame in frames:
        if frame.is_corrupt:
            needing = min([*missing.values(), max(places.values())])
            raise file.error(f"is damaged where the picture at {index.seconds()[needing]:.2f} s of the clip needs it")
        if key in missing:
            yield missing.pop(key), _converted(frame, reformatter, scale)
    if missing:
        first = index.seconds()[min(missing.values())]
        raise file.error(f"{len(missing)} of {len(places)} pictures cannot be decoded, the first at {first:.2f} s of the clip")


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


def _set_up(decoder: av.VideoCodecContext, *, threads: bool, explode: bool) -> None:
    """Set the decoder up, before the first picture. `threads` decode several pictures at once: marks of corrupt ones may come
    too late. (Those that share a picture, PyAV's default, keep the decoder of H.264 from noticing any damage.) With `explode`
    the decoder raises where anything is wrong, be it without consequences."""
    if threads:
        decoder.thread_type = "AUTO"
    else:
        decoder.thread_count = 1
    if explode:
        decoder.options = {**decoder.options, "err_detect": "explode"}


def _decode_all(file: VideoFile, index: PictureIndex, wanted: Collection[int], carefully: bool = False) -> KeyedFrames:
    """The pictures of the file, from its start up to the keyframe after all those wanted."""
    left = set(wanted)
    with file.opened() as (container, stream):
        _set_up(stream.codec_context, threads=not carefully, explode=not (carefully and index.codec in MARKED))
        for number, frame in enumerate(container.decode(stream)):
            file.check_time()
            if not left and frame.key_frame:  # what a wanted picture refers to may be shown after it, but not after this
                return
            key = number - index.skipped if index.in_order else frame.pts
            left.discard(key)
            yield key, frame


def _decode_runs(file: VideoFile, index: PictureIndex, wanted: list[int]) -> KeyedFrames:
    """The pictures of `_runs`, and others, each just as if all were decoded.

    Ends early where that cannot be: a keyframe is not found, or does not come out first.
    """
    runs = _runs(index, wanted)
    with file.opened() as (container, stream):
        # Threads that decode a picture each are pictures ahead when a run ends.
        _set_up(stream.codec_context, threads=len(runs) == 1, explode=True)
        if index.sought is not None and not seek_keyframe(container, stream, index.sought):
            return
        packets = container.demux(stream)
        for keyframe, of_run in runs:
            started = keyframe is None
            for frame in _decode_run(file, packets, stream.codec_context, keyframe, of_run):
                if keyframe is not None and frame.pts is not None and frame.pts < keyframe:
                    continue  # it refers to pictures before the keyframe
                started = started or (frame.key_frame and frame.pts == keyframe)
                if not started:
                    return
                yield frame.pts, frame
            stream.codec_context.flush_buffers()


def _decode_run(
    file: VideoFile, packets: Iterator[av.Packet], decoder: av.VideoCodecContext, keyframe: int | None, wanted: list[int]
) -> Iterator[av.VideoFrame]:
    """Drop packets up to the keyframe's, then decode until all wanted pictures are out, and all that they may refer to."""
    begun = keyframe is None
    chosen, unsent, left = set(wanted), set(wanted), set(wanted)
    shown_later: set[int] = set()  # of those sent up to the last wanted one
    for packet in packets:
        file.check_time()
        begun = begun or (packet.is_keyframe and packet.pts == keyframe)
        if not begun:
            continue
        if decoder.name == "h264":  # other formats do not say reliably whether another picture refers to one
            decoder.skip_frame = "DEFAULT" if packet.is_keyframe or packet.pts in chosen else "NONREF"
        if unsent and packet.pts is not None and packet.pts > wanted[-1]:
            shown_later.add(packet.pts)
        unsent.discard(packet.pts)
        for frame in decoder.decode(packet):  # the last packet is empty, and empties the decoder
            left.discard(frame.pts)
            yield frame
        if not left:
            break
    if shown_later and packet.size:
        yield from (frame for frame in decoder.decode(None) if frame.pts in shown_later)


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
def _decord_process(file: VideoFile, request: dict, log: IO[bytes]) -> Iterator[IO[bytes]]:
    """Run `decord_process.py` for a request; gives its output, kills it when the file's time is over or at exit."""
    command, pipe = [sys.executable, str(DECORD_PROCESS)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log) as process:
        timer = threading.Timer(file.seconds_left, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
            yield process.stdout
        except (EOFError, BrokenPipeError) as error:
            file.check_time()
            lines = [line for line in _text(log).splitlines() if line.strip()]
            raised = [line for line in lines if "Error: " in line and not line.startswith(" ")]
            complaint = (raised or lines or [f"exit code {process.wait()}"])[-1]
            raise file.error(f"decord cannot read it ({complaint})") from error
        finally:
            timer.cancel()
            process.kill()


def _read_exactly(stream: IO[bytes], size: int) -> bytearray:
    data = bytearray(stream.read(size))
    if len(data) < size:
        raise EOFError
    return data


def _text(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")
