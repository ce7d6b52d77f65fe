"""Damaged videos in the workers that decode for training: each costs itself and is told of, none gives frames of something
else, and no worker dies or hangs."""

import random
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from taro.data.dataset import GroundingDataset
from taro.data.samples import Sample
from taro.models.prompt import PromptBuilder
from taro.models.settings import GroundingSettings
from taro.video.load import VideoSettings

pytestmark = pytest.mark.slow  # as a whole file: real runs

COPIES = 100
SEED = 0


def make_copies(folder, data, damages, count):
    """Paths and the names of their damages; those that are always the same once, the others in turn."""
    names = [name for name, damage in damages.items() if not damage.seeded]
    seeded = [name for name, damage in damages.items() if damage.seeded]
    names += [seeded[number % len(seeded)] for number in range(count - len(names))]
    paths = []
    for number, name in enumerate(names):
        paths.append(folder / f"{number:03d}_{name}.mp4")
        damages[name].make(paths[-1], data, random.Random(f"{SEED} {name} {number}"))
    return paths, names


def load_all(paths, folder, backend, workers=2):
    """An example for each path, made by worker processes."""
    if backend == "decord":
        pytest.importorskip("decord")
    samples = [Sample(path.stem, str(path), "a person opens a door", ((0.0, 1.0),), 5.0) for path in paths]
    settings = GroundingSettings(video=VideoSettings(backend=backend, max_tokens=256))
    dataset = GroundingDataset(samples, PromptBuilder(folder), settings)
    return [example for batch in DataLoader(dataset, 4, num_workers=workers, collate_fn=list, timeout=100) for example in batch]


def outcome(example, expected):
    if example.prompt is None:
        return "error"
    found = example.prompt.video
    same = found.frames.shape == expected.frames.shape and torch.equal(found.frames, expected.frames)
    return "same" if same and torch.allclose(found.timestamps, expected.timestamps) else "other"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_every_damaged_copy_is_an_error_or_harmless(intact, damages, tiny_folder, tmp_path, backend):
    (whole,) = load_all([intact], tiny_folder, backend)
    paths, names = make_copies(tmp_path, intact.read_bytes(), damages, COPIES)
    examples = load_all(paths, tiny_folder, backend)
    assert [example.sample.id for example in examples] == [path.stem for path in paths]
    outcomes = {name: Counter() for name in damages}
    for name, path, example in zip(names, paths, examples, strict=True):
        outcomes[name][outcome(example, whole.prompt.video)] += 1
        if example.prompt is None:
            assert example.failure.startswith(f"VideoError: {path}: ") and len(example.failure) > len(f"VideoError: {path}: ")
    for name, counts in outcomes.items():
        if damages[name].expected == "error":
            assert set(counts) == {"error"}, name
        if damages[name].expected == "harmless":
            assert counts["other"] == 0, name
        if damages[name].expected == "mostly":
            assert counts["other"] <= counts.total() / 2, name
    total = sum(outcomes.values(), Counter())
    assert total.total() == COPIES and total["error"] > COPIES / 2
