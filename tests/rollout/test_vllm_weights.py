"""Weights as files; a real server takes them in tests/with_vllm/test_server.py."""

from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import nn

from taro.models.weights import AdaptedWeight, whole_weight
from taro.rollout.vllm_weights import FolderWeights

SERVER = SimpleNamespace(ask=lambda *_: None)


def read(weights: FolderWeights) -> dict[str, torch.Tensor]:
    return {name: value for path in weights.folder.iterdir() for name, value in load_file(path).items()}


def test_none_is_left_of_another_policy(tmp_path):
    weights = FolderWeights("bfloat16", tmp_path)
    many = [(f"weight{number}", torch.full((3, 8), float(number))) for number in range(5)]
    for sent in (many, many[:3]):
        weights.send(SERVER, sent)
    found = read(weights)
    assert found.keys() == {"weight0", "weight1", "weight2"}
    for name, value in many[:3]:
        assert found[name].dtype == torch.bfloat16 and torch.equal(found[name], value.bfloat16())


def test_frozen_weights_are_written_once(tmp_path):
    tower, decoder = nn.Linear(8, 2).requires_grad_(False), nn.Linear(8, 2)
    adapted = AdaptedWeight(torch.zeros(2, 8), torch.ones(1, 8), nn.Parameter(torch.ones(2, 1)), scaling=1.0)
    named = [("tower.weight", tower.weight), ("decoder.weight", decoder.weight), ("adapted.weight", adapted)]
    weights = FolderWeights("float32", tmp_path)
    weights.send(SERVER, named)
    first = {path.name: path.stat().st_ino for path in weights.folder.iterdir()}  # a file that is written anew is another one
    with torch.no_grad():
        decoder.weight += 1
        adapted.up.add_(1)
    weights.send(SERVER, named)
    changed = {path.name for path in weights.folder.iterdir() if path.stat().st_ino != first[path.name]}
    assert changed == {"decoder.weight.safetensors", "adapted.weight.safetensors"}
    found = read(weights)
    assert found.keys() == {name for name, _ in named}
    for name, weight in named:
        assert torch.equal(found[name], whole_weight(weight))


def test_a_new_engine_trusts_no_file(tmp_path):
    named = [("tower.weight", torch.zeros(2, 8))]
    FolderWeights("float32", tmp_path).send(SERVER, named)
    FolderWeights("float32", tmp_path).send(SERVER, [("tower.weight", torch.ones(2, 8))])
    assert torch.equal(read(FolderWeights("float32", tmp_path))["tower.weight"], torch.ones(2, 8))
