"""Seconds that a video takes from the file to resized frames, by who decodes and who resizes, against plain decord:

    python benchmarks/video.py --json video.json
    python benchmarks/video.py --video film.mp4 --repeats 5
    python benchmarks/video.py --workers 4

makes H.264 files of moving, detailed, noisy pictures (`--make WIDTHxHEIGHTxSECONDS ...`), or takes one's own. Every way
has a process of its own for each video, they take turns, and the median counts. With `--workers` also prompts per second
through a DataLoader of GroundingDataset. torch uses `--threads` in each process, one as in a DataLoader's worker; the
decoders use as many as they choose to.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np

OURS = {
    "ours: pyav, swscale": {"backend": "pyav", "resize": "swscale"},
    "ours: pyav, torch": {"backend": "pyav", "resize": "torch"},
    "ours: decord": {"backend": "decord", "resize": "torch"},
}
PLAIN, PROCESSOR = "plain decord", "transformers"
MODEL = "assets/tiny-qwen2.5-vl"  # for the DataLoader's prompts; only its tokenizer and patch size matter
SPAWN = multiprocessing.get_context("spawn")  # this process stays small: its peak counts as that of those it starts
MARGIN = 128  # pixels of texture around a picture, for it to move


def make_video(path: Path, width: int, height: int, seconds: float, fps: int = 30) -> None:
    """H.264 as cameras and sites make it: shots of 5 s of detail at all scales that pan, a moving patch, sensor noise."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(-3, 4, (height, width), np.int16) for _ in range(7)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_type = "FRAME"  # else x264 cuts every picture into slices
        for number in range(round(seconds * fps)):
            in_shot = number % (5 * fps)
            if in_shot == 0:
                luma = _texture(rng, height + 2 * MARGIN, width + 2 * MARGIN)
                chroma = _texture(rng, height // 2 + MARGIN, width // 2 + MARGIN)
                patch, speed = rng.integers(16, 236, (height // 6, height // 6)), rng.uniform(-1, 1, 2)
            row, column = (2 * int(MARGIN / 2 + (in_shot / 5 / fps - 0.5) * part * MARGIN) for part in speed)
            picture = luma[row : row + height, column : column + width] + noise[number % len(noise)]
            left = 5 * number % (width - height // 6)
            picture[height // 3 : height // 3 + len(patch), left : left + len(patch)] = patch
            colours = chroma[row // 2 :, column // 2 :][: height // 2, : width // 2]
            planes = [part.clip(16, 235).astype(np.uint8).ravel() for part in (picture, colours, 255 - colours)]
            frame = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(height * 3 // 2, width), "yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width) int16 around 128."""
    total = np.full((height, width), 128, np.float32)
    for step in (1, 2, 4, 8, 16, 32, 64):
        blocks = rng.standard_normal((height // step + 1, width // step + 1)).astype(np.float32)
        total += np.kron(blocks, np.ones((step, step), np.float32))[:height, :width] * (4 + 2 * np.log2(step))
    return total.astype(np.int16)


def ours(path: str, **settings: str) -> tuple[int, ...]:
    from taro.video.geometry import PatchGeometry
    from taro.video.load import VideoSettings, load_video

    video = load_video(path, clip=None, settings=VideoSettings(**settings), geometry=PatchGeometry())
    return tuple(video.frames.shape)


def plain_decord(path: str) -> tuple[int, ...]:
    """As qwen-vl-utils: decord in the process, all frames at native size, then one resize of all of them."""
    import decord
    import torch

    from taro.video.geometry import PatchGeometry, resize_frames
    from taro.video.load import VideoSettings, sample_frame_count, smart_resize

    settings, geometry = VideoSettings(), PatchGeometry()
    reader = decord.VideoReader(path)
    count = sample_frame_count(len(reader), reader.get_avg_fps(), settings, geometry.temporal_patch_size)
    places = torch.linspace(0, len(reader) - 1, count).round().long().tolist()
    frames = torch.from_numpy(reader.get_batch(places).asnumpy()).permute(0, 3, 1, 2)  # (F, 3, H, W)
    size = smart_resize(*frames.shape[-2:], frames=count, settings=settings, geometry=geometry)
    return tuple(resize_frames(frames, *size).shape)


def transformers_processor(path: str) -> tuple[int, ...]:
    """transformers' video processor, at its own sizes: patches (rows, values)."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    processor = Qwen2VLVideoProcessor()
    return tuple(processor(videos=[path], do_sample_frames=True, fps=2.0, return_tensors="pt").pixel_values_videos.shape)


def load(way: str, path: str) -> tuple[int, ...]:
    """Load a video one way; the shape of the result."""
    if way in OURS:
        return ours(path, **OURS[way])
    return plain_decord(path) if way == PLAIN else transformers_processor(path)


def available_ways() -> list[str]:
    """The ways that can be measured here; says which cannot."""
    missing = [name for name in ("torchvision", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{PROCESSOR}: left out, its video processors need {' and '.join(missing)}, which is not installed")
    if importlib.util.find_spec("decord") is None:
        print("decord: left out, it is not installed; ratios are against our pyav with torch")
    ways = [*OURS, PLAIN, PROCESSOR]
    absent = ([PROCESSOR] if missing else []) + ([] if importlib.util.find_spec("decord") else ["ours: decord", PLAIN])
    return [way for way in ways if way not in absent]


def serve(way: str, small: str, threads: int, connection: Connection) -> None:
    """Load what is asked for until asked for nothing: answers with seconds and shape, at last with memory in MB."""
    import torch

    torch.set_num_threads(threads)
    load(way, small)  # imports, and what libraries set up at their first use
    idle = peak_memory()
    connection.send(None)
    while path := connection.recv():
        start = time.perf_counter()
        shape = load(way, path)
        connection.send((time.perf_counter() - start, shape))
    connection.send((idle, peak_memory()))


def peak_memory() -> float:
    """MB: of this process, and of the largest of its children beside it (which counts at least as large as this one)."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def measure(path: str, small: str, ways: list[str], repeats: int, threads: int) -> list[dict]:
    """A row for each way."""
    ends, processes = {}, []
    for way in ways:
        ends[way], other = SPAWN.Pipe()
        processes.append(SPAWN.Process(target=serve, args=(way, small, threads, other), daemon=True))
        processes[-1].start()
        ends[way].recv()
    times: dict[str, list[float]] = {way: [] for way in ways}
    shapes = {}
    for turn in range(repeats):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            ends[way].send(path)
            seconds, shapes[way] = ends[way].recv()
            times[way].append(seconds)
    memory = {}
    for way in ways:
        ends[way].send(None)
        memory[way] = ends[way].recv()
    for process in processes:
        process.join()
    against = statistics.median(times[PLAIN if PLAIN in ways else "ours: pyav, torch"])
    return [
        {
            "video": Path(path).stem,
            "way": way,
            "shape": shapes[way],
            "seconds": statistics.median(times[way]),
            "all_seconds": times[way],
            "speedup": against / statistics.median(times[way]),
            "frames_per_second": shapes[way][0] / statistics.median(times[way]),
            "idle_mb": memory[way][0],
            "peak_mb": memory[way][1],
        }
        for way in ways
    ]


def measure_workers(path: str, workers: int, prompts: int, ways: list[str]) -> list[dict]:
    """Prompts per second through a DataLoader, from the first prompt on: the workers' start does not count."""
    from torch.utils.data import DataLoader

    from taro.data.dataset import GroundingDataset
    from taro.data.samples import Sample
    from taro.models.prompt import PromptBuilder
    from taro.models.settings import GroundingSettings
    from taro.video.load import VideoSettings

    builder, rows = PromptBuilder(MODEL), []
    with tempfile.TemporaryDirectory() as folder:
        links = [Path(folder, f"{number}{Path(path).suffix}") for number in range(prompts + workers)]
        for link in links:  # other names: each worker keeps the frames of the videos that it had
            os.symlink(Path(path).resolve(), link)
        samples = [Sample(link.stem, str(link), "the patch moves", ((0.0, 1.0),), 1.0) for link in links]
        for way in (way for way in OURS if way in ways):
            dataset = GroundingDataset(samples, builder, GroundingSettings(video=VideoSettings(**OURS[way])))
            loader = iter(DataLoader(dataset, 1, collate_fn=list, num_workers=workers))
            for _ in range(workers):
                next(loader)
            start = time.perf_counter()
            failures = [example.failure for batch in loader for example in batch if example.failure]
            if failures:
                raise SystemExit(failures[0])
            seconds = time.perf_counter() - start
            rows.append({"video": Path(path).stem, "way": way, "workers": workers, "prompts_per_second": prompts / seconds})
    return rows


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| video | way | result | seconds | times plain | frames/s | peak MB (idle) |", "|---" * 7 + "|"]
    for row in rows:
        lines.append(
            f"| {row['video']} | {row['way']} | {' x '.join(map(str, row['shape']))} | {row['seconds']:.3f} "
            f"| {row['speedup']:.2f} | {row['frames_per_second']:.0f} | {row['peak_mb']:.0f} ({row['idle_mb']:.0f}) |"
        )
    return "\n".join(lines)


def workers_table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| video | way | workers | prompts/s |", "|---" * 4 + "|"]
    lines += [f"| {row['video']} | {row['way']} | {row['workers']} | {row['prompts_per_second']:.2f} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--make", nargs="+", default=["640x360x60", "1280x720x30", "1920x1080x20"], help="files to make")
    parser.add_argument("--video", type=Path, nargs="+", default=None, help="one's own files, instead")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--workers", type=int, default=0, help="also measure a DataLoader with so many workers")
    parser.add_argument("--prompts", type=int, default=8, help="for --workers")
    parser.add_argument("--json", type=Path, default=None, help="write the rows there")
    args = parser.parse_args()
    ways, rows, loader_rows = available_ways(), [], []
    with tempfile.TemporaryDirectory() as folder:
        small, *made = (Path(folder, f"{name}.mp4") for name in ("128x128x1", *([] if args.video else args.make)))
        for path in (small, *made):
            width, height, seconds = path.stem.split("x")
            process = SPAWN.Process(target=make_video, args=(path, int(width), int(height), float(seconds)))
            process.start()
            process.join()
        paths = args.video or made
        for path in paths:
            rows += measure(str(path), str(small), ways, args.repeats, args.threads)
        print(table(rows))
        if args.workers:
            for path in paths:
                loader_rows += measure_workers(str(path), args.workers, args.prompts, ways)
            print("\n" + workers_table(loader_rows))
    if args.json is not None:
        args.json.write_text(json.dumps({"videos": rows, "loader": loader_rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
