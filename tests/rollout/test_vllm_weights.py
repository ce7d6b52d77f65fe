"""Weights as files; a real server takes them in tests/with_vllm/test_server.py."""

import torch
from safetensors.torch import load_file

from taro.rollout.vllm_weights import FolderWeights


def test_none_is_left_of_another_policy(tmp_path):
    weights = FolderWeights("bfloat16", tmp_path)
    many = [(f"weight{number}", torch.full((3, 8), float(number))) for number in range(5)]
    weights.write(iter(many))
    weights.write(iter(many[:3]))
    found = {}
    for path in weights.folder.iterdir():
        found |= load_file(path)
    assert found.keys() == {"weight0", "weight1", "weight2"}
    assert all(torch.equal(found[name], value.bfloat16()) for name, value in many[:3])
