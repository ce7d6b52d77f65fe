"""Does a long video take more memory than a short one? The same question about a video of ten minutes and one of hours, each by
an `eval.py` of its own with the same number of frames, the long one also in two passes:

    python benchmarks/long_video.py --hours 3

prints the peak memory of each and the seconds that it took, with its imports and the model. Pictures are 112 x 84, 2 a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from taro.data.samples import Sample, save_samples
from taro.messages import print_table
from taro.synthetic.world import Event, Scene, write_video

WIDTH, HEIGHT, FPS = 112, 84, 2.0


def make_video(folder: Path, seconds: float) -> Path:
    """A video in which a red square moves for 13 s in its middle, and its samples file."""
    start = seconds / 2
    event = Event(start, start + 13.0, "red", "square", "moves left", 56.0, 42.0, 15.0, 4.0)
    path = folder / f"{seconds:.0f}.mp4"
    write_video(Scene(3, WIDTH, HEIGHT, FPS, seconds, (event,), (30, 30, 30), None, (0,)), path)
    samples = path.with_suffix(".jsonl")
    save_samples([Sample("a", str(path), event.text, ((event.start, event.end),), seconds)], samples)
    return samples


def evaluate(samples: Path, frames: int, extra: list[str]) -> tuple[float, float]:
    """Peak memory in MiB and seconds of `eval.py`, which loads videos in its own process."""
    command = [sys.executable, "eval.py", f"--annotations={samples}", "--model=assets/tiny-qwen2.5-vl", "--workers=0", *extra]
    command += ["--grounding.evaluation_video=null", f"--grounding.video.max_frames={frames}", "--max_tokens=160"]
    command += [f"--grounding.video.max_tokens={2 * frames}", f"--grounding.evaluation_max_prompt_tokens={2 * frames + 512}"]
    command += ["--grounding.prompt=When does this happen: {query}?"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{error[-2000:]}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--frames", type=int, default=256, help="that the model is shown of each video")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, long = [], 3600 * arguments.hours
        samples = {seconds: make_video(Path(folder), seconds) for seconds in (600.0, long)}
        for seconds, extra in ((600.0, []), (long, []), (long, ["--zoom"])):
            memory, took = evaluate(samples[seconds], arguments.frames, extra)
            whole = seconds * FPS * WIDTH * HEIGHT * 3 / 2**20
            rows.append((f"{seconds:.0f}", " ".join(extra), f"{whole:.0f}", f"{memory:.0f}", f"{took:.0f}"))
    print_table(["video, s", "", "all its frames, MiB", "peak memory, MiB", "seconds"], rows)


if __name__ == "__main__":
    main()
