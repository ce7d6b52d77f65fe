"""Weights whole, and spread over the ranks of one process; of two: tests/rl/test_ranks.py."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from taro.models.adapters import LoRASettings
from taro.models.loading import load_policy, reload_policy
from taro.models.log_probs import GroupInputs, compute_log_probs, empty_pass
from taro.models.packing import pack_group
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import gathered, reshard
from taro.models.weights import whole_weights

pytestmark = pytest.mark.slow  # as a whole file: models are loaded again and again


@pytest.fixture
def mesh(process_group):
    return init_device_mesh("cpu", (1,))


def load(folder, mesh=None):
    return load_policy(folder, "float32", "shared_prefix", mesh=mesh)


def test_a_model_without_weights_has_real_buffers(model_folder):
    empty, whole = QwenVL.from_pretrained(model_folder, weights=False), QwenVL.from_pretrained(model_folder)
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not empty.model.training and not whole.model.training
    assert [name for name, _ in empty.named_parameters()] == [name for name, _ in whole.named_parameters()]
    buffers = dict(whole.named_buffers())
    assert buffers and buffers.keys() == dict(empty.named_buffers()).keys()
    for name, value in empty.named_buffers():
        assert torch.equal(value, buffers[name]), name
    assert not torch.nn.Linear(1, 1).weight.is_meta  # what is made later is whole again


def test_sharded_weights_are_the_same(model_folder, mesh):
    (policy, reference), (plain, _) = load(model_folder, mesh), load(model_folder)
    for model in (policy, reference):
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        assert model.model.lm_head.weight is model.decoder.embed_tokens.weight  # tied, as before
    assert not any(parameter.requires_grad for parameter in reference.parameters()) and reference.tower is None
    assert policy.trained_weights().keys() == plain.trained_weights().keys()
    for (name, value), (other, expected) in zip(
        whole_weights(policy.named_weights()), whole_weights(plain.named_weights()), strict=True
    ):
        assert name == other and torch.equal(value, expected)


@pytest.mark.parametrize("kind", ["whole", "sharded", "adapters"])
def test_the_weights_of_the_start_come_back(tiny_folder, mesh, kind):
    lora = LoRASettings(rank=2, alpha=4) if kind == "adapters" else None
    policy, _ = load_policy(
        tiny_folder, "float32", "shared_prefix", lora=lora, with_reference=False, mesh=mesh if kind == "sharded" else None
    )
    before = {name: value.clone() for name, value in whole_weights(policy.named_weights())}
    with torch.no_grad():
        for parameter in policy.trained_weights().values():
            parameter.add_(1.0)
    changed = dict(whole_weights(policy.named_weights()))
    assert any(not torch.equal(value, before[name]) for name, value in changed.items())
    reload_policy(policy, tiny_folder, "float32", lora)
    after = dict(whole_weights(policy.named_weights()))
    assert after.keys() == before.keys() and all(torch.equal(value, before[name]) for name, value in after.items())


def group_of(prompt, policy):
    packed = pack_group(prompt.input_ids, [torch.tensor([5, 6, 7]), torch.tensor([8, 9])])
    return GroupInputs(prompt, packed, policy.encode_video(prompt.video.frames))


def test_sharded_passes_are_the_same(model_folder, mesh, prompts):
    """Values and gradients, with what stays gathered and what does not."""
    (policy, reference), (plain, _) = load(model_folder, mesh), load(model_folder)
    with gathered(policy):
        scores = compute_log_probs(policy, [group_of(prompts[0], policy)])[0].log_probs
        expected = compute_log_probs(plain, [group_of(prompts[0], plain)])[0].log_probs
        torch.testing.assert_close(scores, expected)
        with torch.no_grad():
            theirs = compute_log_probs(reference, [group_of(prompts[0], policy)])[0].log_probs
        torch.testing.assert_close(theirs, expected.detach())
        scores.sum().backward()
        expected.sum().backward()
        gradients = {name: value.grad for name, value in plain.trained_weights().items()}
        assert not isinstance(next(policy.tower.parameters()), DTensor)  # a backward pass leaves the tower whole
    for name, parameter in policy.trained_weights().items():
        torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name], msg=name)
    reshard(reference)
    assert all(isinstance(parameter, DTensor) for model in (policy, reference) for parameter in model.parameters())


def test_inside_gathered_the_decoder_stays_whole(model_folder, mesh, prompts):
    policy, _ = load(model_folder, mesh)
    with torch.no_grad(), gathered(policy, decoder=True):
        for _ in range(2):
            compute_log_probs(policy, [group_of(prompts[0], policy)])
            assert not any(isinstance(parameter, DTensor) for parameter in policy.parameters())
    assert all(isinstance(parameter, DTensor) for parameter in policy.parameters())
    with torch.no_grad():
        empty_pass(policy)
    assert all(isinstance(parameter, DTensor) for parameter in policy.decoder.layers.parameters())  # as before


def test_a_pass_over_nothing_gives_each_weight_a_zero_gradient(own_policy):
    loss = empty_pass(own_policy)
    loss.backward()
    assert loss == 0
    for name, parameter in own_policy.trained_weights().items():
        assert parameter.grad is not None and not parameter.grad.any(), name
    assert compute_log_probs(own_policy, []) == []


@pytest.mark.parametrize("checkpointing", [False, True])
def test_float32_shards_gathered_in_bfloat16(model_folder, mesh, prompts, checkpointing):
    """As on GPUs: values near those of float32, float32 gradients of nearly the same direction and length."""
    policy, _ = load_policy(model_folder, "float32", "shared_prefix", mesh=mesh, compute_dtype=torch.bfloat16)
    plain, _ = load(model_folder)
    if checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        policy.train()
    with gathered(policy), torch.autocast("cpu", torch.bfloat16):
        scores = compute_log_probs(policy, [group_of(prompts[0], policy)])[0].log_probs
        scores.sum().backward()
    expected = compute_log_probs(plain, [group_of(prompts[0], plain)])[0].log_probs
    expected.sum().backward()
    assert 0 < (scores - expected).abs().max() < 0.1
    gradients = {name: value.grad for name, value in plain.trained_weights().items()}
    for name, parameter in policy.trained_weights().items():
        gradient, other = parameter.grad.full_tensor().flatten(), gradients[name].flatten()
        assert gradient.dtype == torch.float32
        if other.norm() > 1e-2:
            assert torch.nn.functional.cosine_similarity(gradient, other, dim=0) > 0.99, name
            assert gradient.norm() / other.norm() == pytest.approx(1, abs=0.05), name
