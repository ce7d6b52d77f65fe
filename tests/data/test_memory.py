"""Loading videos for hours must not need more and more memory."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GROWTH = 4.0  # MB between the 100th and the 500th load; the allocator's own ups and downs are below 1

LOADS = """
import itertools, sys
from taro.data.dataset import GroundingDataset
from taro.data.samples import Sample
from taro.data.video import VideoSettings
from taro.models.prompt import PromptBuilder
from taro.models.settings import GroundingSettings

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

paths = sys.argv[1:]
clips = [None, (0.0, 0.9), (0.5, 1.7), (1.0, 9.0), (5.0, 6.0)]  # the last lies outside
samples = [Sample("s", path, "the red square", ((0.0, 0.5),), 2.0, clip) for path in paths for clip in clips]
builder = PromptBuilder("assets/tiny-qwen2.5-vl")
videos = [VideoSettings(), VideoSettings(resize="torch", fps=8.0)]
datasets = [GroundingDataset(samples, builder, GroundingSettings(video=video)) for video in videos]
turns = itertools.cycle([(dataset, number) for number in range(len(samples)) for dataset in datasets])
failures = 0
for load, (dataset, number) in zip(range(1, 501), turns):
    failures += dataset[number].failure is not None
    dataset.videos.clear()  # what it keeps on purpose
    dataset.cached_bytes = 0
    if load in (100, 500):
        print(load, resident())
print(failures)
"""


def write(path, codec, options):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 128, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(50):
            picture = np.kron(rng.integers(0, 256, (16, 20, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
def test_memory_does_not_grow(tmp_path):
    keyframes = {"x264-params": "keyint=12"}
    paths = [
        write(tmp_path / "v.mp4", "libx264", keyframes),
        write(tmp_path / "v.mkv", "mjpeg", {}),
        write(tmp_path / "v.avi", "mpeg4", {"bf": "2"}),
        write(tmp_path / "cut.mkv", "libx264", keyframes),
        write(tmp_path / "garbled.mp4", "mpeg4", {}),
    ]
    data = paths[3].read_bytes()
    paths[3].write_bytes(data[: len(data) * 2 // 3])
    data = bytearray(paths[4].read_bytes())
    data[len(data) // 3 : len(data) * 2 // 3] = b"\xff" * (len(data) * 2 // 3 - len(data) // 3)
    paths[4].write_bytes(data)
    command = [sys.executable, "-c", LOADS, *map(str, paths)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert output.returncode == 0, output.stderr
    after_100, after_500, failures = (line.split()[-1] for line in output.stdout.splitlines())
    assert 150 < int(failures) < 350
    assert float(after_500) - float(after_100) < GROWTH
