"""Which pictures a video file holds, and when each is shown: found by demuxing, without decoding, for both backends.

A file must be whole: it may end END_TOLERANCE pictures before its header says, since encoders round that time, and no
picture that the header lists may be missing. Of a file that a clip is cut from, what is read for the clip must be there.
What can't be noticed: a part that is missing where the header lists nothing (within Matroska, anywhere in MPEG-TS; the times
of the other pictures stay right), and a damaged header that contradicts nothing, such as one with other times.
"""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from taro.video.file import VideoFile

END_TOLERANCE = 1.5
CLIP_SLACK = 1e-3  # seconds, and no more than half a tick: a clip's limit seldom falls on a tick
# Zero bytes in a row that no entropy coder writes: a part of the file that was never written. Decoders of some formats make
# pictures of them without a word.
HOLE = bytes(64)
ENTROPY_CODED = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")


@dataclass(frozen=True, eq=False)
class PictureIndex:
    """The pictures of a video or of a clip of it, in the order of presentation; made by `read_index`."""

    pts: np.ndarray  # (N,) int64, ascending
    start: float  # pts at which the clip's clock starts; between two ticks where the clip does
    end: float  # pts at which the clip ends, or the video where that is earlier
    keyframes: np.ndarray  # (K,) int64, ascending: pts of the shown ones that were read, those outside of the clip among them
    origin: int  # pts that the container gives as the stream's start; decord counts from it
    time_base: Fraction  # seconds per pts unit
    rate: float | None  # pictures per second as the container states it
    container: str  # libav's names of the container's format, with commas between
    codec: str  # libav's name of the pictures' format
    skipped: int  # pictures before pts[0] that were read; where `in_order`, all of the file's
    hidden: bool  # an edit list hides pictures that were read: decoded for the others' sake and never shown
    sought: int | None  # pts sought in the file to read on from the keyframe before it; None: it was read from its start

    @property
    def in_order(self) -> bool:
        """Whether pts do not name decoded pictures (AVI stores none): the k-th decoded is the k-th shown."""
        return "avi" in self.container.split(",")

    def seconds(self) -> np.ndarray:
        """When the pictures are shown, (N,) float64 seconds in the clip's own clock."""
        return (self.pts - self.start) * float(self.time_base)

    @property
    def duration(self) -> float:
        """The clip's duration in seconds."""
        return (self.end - self.start) * float(self.time_base)


def read_index(file: VideoFile, clip: tuple[float, float] | None) -> PictureIndex:
    """List the pictures of the file, or those within `clip` (seconds from its first picture), decoding nothing.

    With a clip only the packets around it are read (AVI: all before it, too). Raises VideoError where the file cannot
    be read in time, ends before its header says, has a hole, or shows nothing within the clip.
    """
    if clip is None:
        index = _scan(file, None)
    else:
        first, time_base = _first_picture(file)
        limits = tuple(first + float(Fraction(second) / time_base) for second in clip)
        index = _scan(file, limits, seek=True) or _scan(file, limits)
    if len(index.pts) == 0:
        raise file.error(f"shows nothing from {clip[0]:g} to {clip[1]:g} s, the clip lies outside of the video")
    if index.duration <= 0:
        raise file.error("its pictures have no duration")
    return index


def _first_picture(file: VideoFile) -> tuple[int, Fraction]:
    """Pts of the first picture shown (the least before the second keyframe), and the time base."""
    shown: list[int] = []
    with file.opened() as (container, stream):
        for pts, packet in file.packets(container, stream):
            if shown and packet.is_keyframe:
                break
            if not packet.is_discard:
                shown.append(pts)
        time_base = stream.time_base
    if not shown:
        raise file.error("holds no picture")
    return min(shown), time_base


def _scan(file: VideoFile, limits: tuple[float, float] | None, seek: bool = False) -> PictureIndex | None:
    """The index of the pictures with pts within limits (both ends included), or of all.

    With `seek`, reads from the keyframe before the first limit on; None where the file cannot seek there.
    """
    durations: dict[int, int] = {}  # by pts, of all pictures read, whether within limits or not
    keyframes: list[int] = []
    with file.opened() as (container, stream):
        if seek and (container.format.name == "avi" or not seek_keyframe(container, stream, int(limits[0]))):
            return None
        codec = stream.codec_context.codec.canonical_name
        count, ended, hidden, whole = 0, True, False, True
        for pts, packet in file.packets(container, stream):
            if seek and count == 0 and not (packet.is_keyframe and pts <= limits[0]):
                return None
            count += 1
            if limits is not None and packet.dts is not None and packet.dts > limits[1] + 1:
                ended = False  # no later packet is shown earlier than its decoding time
                break
            if _has_hole(packet, codec):
                raise file.error(f"has a hole: zeros in place of the picture at {float(pts * stream.time_base):.2f} s")
            hidden |= packet.is_discard
            whole = not packet.is_corrupt
            if not packet.is_discard:
                durations[pts] = packet.duration or 0
                if packet.is_keyframe:
                    keyframes.append(pts)
        if not durations:
            if seek:
                return None
            raise file.error("holds no picture")
        if ended:
            _check_end(file, stream, durations, None if seek else count)
            if not whole:
                raise file.error("cannot be decoded to its end: the last picture is cut off")
        pts = np.array(sorted(durations), dtype=np.int64)
        start, end = float(pts[0]), float(pts[-1] + _last_duration(stream, pts, durations))
        inside = np.ones(len(pts), dtype=bool)
        if limits is not None:
            slack = min(0.5, CLIP_SLACK / float(stream.time_base))
            inside = (pts >= limits[0] - slack) & (pts <= limits[1] + slack)
            start, end = limits[0], min(end, limits[1]) if ended else limits[1]
        return PictureIndex(
            pts=pts[inside],
            start=start,
            end=end,
            keyframes=np.array(sorted(keyframes), dtype=np.int64),
            origin=int(pts[0]) if stream.start_time is None else stream.start_time,
            time_base=stream.time_base,
            rate=float(stream.average_rate) if stream.average_rate else None,
            container=container.format.name,
            codec=codec,
            skipped=int(inside.argmax()),
            hidden=hidden,
            sought=int(limits[0]) if seek else None,
        )


def _last_duration(stream: av.VideoStream, pts: np.ndarray, durations: dict[int, int]) -> float:
    """Of the last picture, in units of pts: as it is stated, else the mean, else by the rate."""
    mean, rate = (pts[-1] - pts[0]) / max(len(pts) - 1, 1), stream.average_rate
    return durations[int(pts[-1])] or mean or (float(1 / (rate * stream.time_base)) if rate else 0)


def seek_keyframe(container: av.container.InputContainer, stream: av.VideoStream, pts: int) -> bool:
    """Go to a keyframe at or before pts; False where the file cannot."""
    try:
        container.seek(pts, stream=stream)
    except av.FFmpegError:
        return False
    return True


def _has_hole(packet: av.Packet, codec: str) -> bool:
    """Whether zeros stand in place of a part of the picture, or of all of it; some encoders fill up its end with them."""
    if codec not in ENTROPY_CODED:
        return False
    data = bytes(packet).rstrip(b"\0")
    return not data or HOLE in data


def _check_end(file: VideoFile, stream: av.VideoStream, durations: dict[int, int], packets: int | None) -> None:
    """Raise VideoError where the header lists more packets, or promises more time, than the file has."""
    listed = len(getattr(stream, "index_entries", ()))  # PyAV >= 17
    if packets is not None and packets < listed:
        raise file.error(f"is truncated: {packets} of {listed} pictures are there")
    end = max(pts + duration for pts, duration in durations.items())
    gap = max(*durations.values(), (end - min(durations)) / len(durations))
    promised = _promised_end(stream)
    if promised is not None and end + END_TOLERANCE * gap < promised:
        there, missing = (float(pts * stream.time_base) for pts in (end, promised - end))
        raise file.error(f"is truncated: its pictures end at {there:.2f} s, {missing:.2f} s early")


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
