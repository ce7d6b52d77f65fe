"""Weights as files; a real server takes them in tests/with_vllm/test_server.py."""

from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from taro.rollout.vllm_weights import FolderWeights


def test_none_is_left_of_another_policy(tmp_path):
    weights = FolderWeights("bfloat16", tmp_path)
    many = [(f"weight{number}", torch.full((3, 8), float(number))) for number in range(5)]
    for sent in (many, many[:3]):
        weights.send(SimpleNamespace(ask=lambda *_: None), sent)
    found = {}
    for path in weights.folder.iterdir():
        found |= load_file(path)
    assert found.keys() == {"weight0", "weight1", "weight2"}
    for name, value in many[:3]:
        assert found[name].dtype == torch.bfloat16 and torch.equal(found[name], value.bfloat16())
