import pytest
import torch

from taro.models import tower_attention
from taro.models.qwen_vl import QwenVL

SIZES = [(2, 2), (3, 5), (6, 7)]  # tokens; windows of one length, of two, and of four


@pytest.fixture(scope="module")
def frames(policy):
    factor, generator = policy.geometry.factor, torch.Generator().manual_seed(0)
    shapes = [(12, 3, height * factor, width * factor) for height, width in SIZES]
    return [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for shape in shapes]


def encode(policy, attention, video, monkeypatch):
    """Features of a video, and the gradient of their sum of squares with respect to the patches' embedding."""
    monkeypatch.setattr(policy.tower.config, "_attn_implementation", attention)
    weight = policy.tower.patch_embed.proj.weight
    monkeypatch.setattr(weight, "requires_grad", True)
    with torch.enable_grad():
        features = policy.encode_video(video)
        tensors = [features.embeds, *features.deepstack]
        return [*tensors, *torch.autograd.grad(sum(tensor.square().sum() for tensor in tensors), weight)]


@pytest.mark.parametrize("size", range(len(SIZES)))
def test_equal_to_a_call_for_each_window(policy, frames, size, monkeypatch):
    got, expected = (encode(policy, name, frames[size], monkeypatch) for name in (tower_attention.SEGMENTS, "sdpa"))
    for a, b in zip(got[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(got[-1], expected[-1], atol=1e-4, rtol=1e-4)


def test_one_call_for_each_length(policy, frames, monkeypatch):
    calls, attend = [], tower_attention.scaled_dot_product_attention

    def count(query, *states, **settings):
        calls.append(len(query))
        return attend(query, *states, **settings)

    monkeypatch.setattr(tower_attention, "scaled_dot_product_attention", count)
    policy.encode_video(frames[-1])
    if policy.family.model_type != "qwen2_5_vl":
        assert calls == [6] * len(policy.tower.blocks)  # six pictures
    else:
        whole = len(policy.tower.fullatt_block_indexes)  # six pictures; elsewhere windows of four sizes, one of each a picture
        assert calls == [6] * (whole + 4 * (len(policy.tower.blocks) - whole))


def test_attentions_of_transformers_stay(model_folder):
    assert QwenVL.from_pretrained(model_folder, attention="sdpa").tower.config._attn_implementation == "sdpa"
    assert QwenVL.from_pretrained(model_folder).tower.config._attn_implementation == tower_attention.SEGMENTS
