"""The benchmarks that `eval.py` knows by name, and where their files are unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """Samples file and folder of the videos, relative to the working directory."""

    annotations: str
    video_root: str | None  # None: the folder of the samples file


BENCHMARKS = {
    "Synthetic": Benchmark("data/synthetic/test.jsonl", None),
    "Charades": Benchmark("data/charades/test.jsonl", "data/charades/videos"),
}
