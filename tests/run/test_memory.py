"""The formulas of the plan against what passes of real models keep."""

import pytest
import torch
from counted_memory import count, fake_group, fake_policy
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForImageTextToText

from taro.models.adapters import LoRASettings, add_adapters
from taro.models.families import load_config
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import shard
from taro.models.weights import parameters_on_meta
from taro.run.memory import GIB, Shape, activation_bytes

pytestmark = pytest.mark.slow  # as a whole file: a model without weights each


def test_parameters_are_those_of_the_model(model_folder):
    model = AutoModelForImageTextToText.from_pretrained(model_folder)
    shape = Shape.of(model.config)
    assert shape.decoder + shape.tower == sum(parameter.numel() for parameter in model.parameters())
    assert shape.tower == sum(parameter.numel() for parameter in model.model.visual.parameters())


def test_adapters_are_those_of_the_model(model_folder):
    policy = QwenVL.from_pretrained(model_folder)
    shape = Shape.of(policy.model.config)
    add_adapters(policy.model, LoRASettings(rank=4))
    trained = sum(parameter.numel() for parameter in policy.trained_weights().values())
    assert shape.adapters(4) == trained


@pytest.mark.parametrize(
    ("name", "layers", "rank", "prompt", "completion", "checkpointing"),
    [
        ("qwen2.5-vl-7b", 2, 0, 14336, 256, True),
        ("qwen2.5-vl-3b", 1, 0, 14336, 256, False),
        ("qwen2.5-vl-3b", 1, 64, 14336, 256, True),
        ("qwen3-vl-8b", 1, 0, 14336, 256, True),
    ],
)
def test_activations_of_real_sizes(name, layers, rank, prompt, completion, checkpointing):
    """In bfloat16, of some of the decoder's layers, which are all alike, and with a backward pass."""
    config, family = load_config(f"assets/shapes/{name}")
    config.text_config.num_hidden_layers = layers
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    policy = fake_policy(config, family, fake, rank, checkpointing)
    groups = [fake_group(policy, fake, prompt, [completion] * 8)]
    tokens = sum(len(group.packed) for group in groups)
    repeated = 8 * (prompt + completion) / tokens
    planned = activation_bytes(config.text_config, tokens, 2, checkpointing=checkpointing, repeated=repeated, adapters=rank > 0)
    tied = policy.model.lm_head.weight is policy.decoder.embed_tokens.weight
    if tied and not rank:  # the head's gradient waits for that of the embeddings
        planned += policy.model.lm_head.weight.nbytes
    assert planned / GIB == pytest.approx(count(policy, groups), rel=0.1)


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "qwen2.5-vl-3b"])
def test_what_fsdp2_gathers_together_is_what_the_plan_counts(name, no_process_group):
    """Over a group of 8 ranks that are not there; and hardly anything is added to make all shards of one size."""
    config, family = load_config(f"assets/shapes/{name}")
    config.text_config.num_hidden_layers = 2
    shape, ranks = Shape.of(config), 8
    with parameters_on_meta():
        policy = QwenVL(AutoModelForImageTextToText.from_config(config), family, None, list(range(5)))
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        shard(policy, init_device_mesh("cpu", (ranks,)), torch.bfloat16)
        sizes, shards, seen = [], 0, set()
        for module in reversed([one for one in policy.modules() if isinstance(one, FSDPModule)]):  # inner ones first
            own = [parameter for parameter in module.parameters() if parameter not in seen]
            sizes.append(sum(parameter.numel() for parameter in own))
            shards += sum(parameter.to_local().numel() for parameter in own)  # of rank 0, whose shards are the largest
            seen |= set(own)
    finally:
        distributed.destroy_process_group()
    assert sizes == [shape.layer, shape.layer, shape.tower, shape.head]
    assert 1 <= ranks * shards / sum(sizes) < 1.001
