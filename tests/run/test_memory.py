"""The formulas of the plan against what passes of real models keep."""

import pytest
from counted_memory import count, fake_group, fake_policy
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForImageTextToText

from taro.models.adapters import LoRASettings, add_adapters
from taro.models.families import load_config
from taro.models.qwen_vl import QwenVL
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
    planned = activation_bytes(
        config.text_config, tokens, 2, checkpointing=checkpointing, repeated=repeated, adapters=rank > 0
    )
    tied = policy.model.lm_head.weight is policy.decoder.embed_tokens.weight
    if tied and not rank:  # the head's gradient waits for that of the embeddings
        planned += policy.model.lm_head.weight.nbytes
    assert planned / GIB == pytest.approx(count(policy, groups), rel=0.1)
