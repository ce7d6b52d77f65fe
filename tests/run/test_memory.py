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


def ratio(config, family, dtype, mixed, prompt=14336, rows=8, rank=0, checkpointing=True):
    """What is planned to what is counted, of a pack of 16,384 tokens whose completions have 256 each."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    policy = fake_policy(config, family, fake, rank, checkpointing, dtype)
    groups = [fake_group(policy, fake, prompt, [256] * rows)]
    tokens = sum(len(group.packed) for group in groups)
    head = policy.model.lm_head.weight
    tied = head is policy.decoder.embed_tokens.weight
    waiting = head.nbytes if tied and not rank else 0  # for the gradient of the embeddings
    planned = waiting + activation_bytes(
        config.text_config,
        tokens,
        2 if mixed else dtype.itemsize,
        checkpointing=checkpointing,
        repeated=rows * (prompt + 256) / tokens,
        weights=dtype.itemsize,
        layer=Shape.of(config).layer,
        adapters=rank > 0,
        waiting=waiting,
    )
    return planned / GIB / count(policy, groups, mixed)


@pytest.mark.parametrize(
    ("name", "layers", "rank", "checkpointing"),
    [
        ("qwen2.5-vl-7b", 2, 0, True),
        ("qwen2.5-vl-3b", 1, 0, False),
        ("qwen2.5-vl-3b", 1, 64, True),
        ("qwen3-vl-8b", 1, 0, True),
    ],
)
def test_activations_of_real_sizes(name, layers, rank, checkpointing):
    """In bfloat16, of some of the decoder's layers, which are all alike, and with a backward pass."""
    config, family = load_config(f"assets/shapes/{name}")
    config.text_config.num_hidden_layers = layers
    assert ratio(config, family, torch.bfloat16, True, rank=rank, checkpointing=checkpointing) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("name", "mixed", "rank"),
    [("qwen2.5-vl-7b", True, 0), ("qwen2.5-vl-3b", True, 0), ("qwen2.5-vl-3b", True, 64), ("qwen2.5-vl-3b", False, 0)],
)
def test_activations_of_float32_weights(name, mixed, rank):
    """As a single device sees them, without FSDP2 that gathers them in bfloat16: `bf16-mixed`, and `32-true`."""
    config, family = load_config(f"assets/shapes/{name}")
    config.text_config.num_hidden_layers = 1
    assert ratio(config, family, torch.float32, mixed, rank=rank) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        (["linear_attention"] * 2, torch.bfloat16),
        (["linear_attention"], torch.float32),
        (["full_attention"], torch.bfloat16),
    ],
)
def test_activations_of_recurrent_layers(kinds, dtype):
    """The longer a row, the more operations has transformers' reference of the rule, one chunk after the other: here it is many
    short rows. What an earlier layer leaves behind, would be seen in two."""
    config, family = load_config("assets/shapes/qwen3.5-9b")
    config.text_config.num_hidden_layers, config.text_config.layer_types = len(kinds), kinds
    assert ratio(config, family, dtype, True, prompt=256, rows=63) == pytest.approx(1, abs=0.1)


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
