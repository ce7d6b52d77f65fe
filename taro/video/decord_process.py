"""Decode pictures with decord, as a script in a process that can be killed; `decode.decode_decord` runs it.

Reads from stdin one JSON object: `path`, and `seconds`, the pictures' times from the stream's start, ascending. Writes
for each picture its height and width (two little-endian uint32) and its RGB bytes to stdout; libav's messages go to stderr.
Imports neither torch nor taro: it starts in a tenth of a second.
"""

import json
import os
import struct
import sys
from typing import Any


def find_numbers(times: Any, seconds: list[float]) -> list[int]:
    """Numbers of the pictures at these seconds among decord's times (N,); raises LookupError where it has none."""
    numbers = []
    for second in seconds:
        number = int(abs(times - second).argmin())
        if abs(times[number] - second) > 1e-3 + 1e-6 * second:  # decord's times are float32
            raise LookupError(f"decord has no picture at {second:.3f} s")
        numbers.append(number)
    return numbers


def main() -> None:
    """Answer the request on stdin."""
    import decord

    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what native code prints must not mix with the pictures
    request = json.load(sys.stdin)
    decord.logging.set_level(decord.logging.INFO)  # libav says on this level that it makes up a part of a picture
    # decord repeats pictures for those it cannot decode; the tolerance makes one of them an error.
    reader = decord.VideoReader(request["path"], num_threads=1, fault_tol=0.0001)
    times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype("float64")  # (N,)
    for number in find_numbers(times, request["seconds"]):
        picture = reader[number].asnumpy()  # (H, W, 3)
        if picture.shape[2] != 3:
            raise ValueError("decord misreads rotated pictures narrower than 64 pixels; use the backend pyav")
        output.write(struct.pack("<II", *picture.shape[:2]) + picture.tobytes())
    output.close()


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, whose modules would hide others of the same name
    main()
