import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText

from taro.models.families import ModelError
from taro.models.qwen_vl import QwenVL
from taro.video.geometry import frames_to_patches

SIZES = [(2, 2), (3, 5), (6, 7)]  # tokens; the last is larger than Qwen2.5-VL's attention window of 4 x 4


def random_frames(geometry, height, width, count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, height * geometry.factor, width * geometry.factor)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def tensors(features):
    return [features.embeds, *features.deepstack]


def assert_same(got, expected):
    assert len(tensors(got)) == len(tensors(expected))
    for a, b in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_cudnn_makes_no_plans(model_folder):
    """It would, for every new shape, wherever there is a model: in training, decoding, evaluation, captions, benchmarks."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    QwenVL.from_pretrained(model_folder, weights=False)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_folder_without_its_tokenizer_says_what_to_copy(model_folder, tmp_path):
    shutil.copy2(f"{model_folder}/config.json", tmp_path)
    with pytest.raises(ModelError, match=r"has no tokenizer of a Qwen-VL model .*: copy tokenizer\.json"):
        QwenVL.from_pretrained(str(tmp_path), weights=False)


def test_features_are_transformers_own(policy):
    frames = random_frames(policy.geometry, 3, 5)
    features = policy.encode_video(frames)
    grid = torch.tensor([policy.geometry.grid(frames.shape)])
    expected = policy.model.model.get_video_features(frames_to_patches(frames, policy.geometry), grid)
    assert torch.equal(features.embeds, torch.cat(list(expected.pooler_output)))
    assert features.embeds.shape == (6 * 15, policy.decoder.config.hidden_size)
    assert len(features.deepstack) == (1 if policy.family.model_type == "qwen3_vl" else 0)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_features_of_some_patches_are_those_of_the_whole(policy, height, width):
    frames = random_frames(policy.geometry, height, width)
    chosen = [1, 4, 5]
    whole = policy.encode_video(frames)
    some = policy.encode_video(frames.unflatten(0, (6, 2))[chosen].flatten(0, 1))
    for part, full in zip(tensors(some), tensors(whole), strict=True):
        torch.testing.assert_close(part, full.unflatten(0, (6, -1))[chosen].flatten(0, 1), atol=1e-5, rtol=1e-5)
    assert (whole.embeds.unflatten(0, (6, -1)).diff(dim=0).abs().amax(dim=(1, 2)) > 1e-2).all()  # patches do differ


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_reencoding_equals_encoding_all_again(policy, height, width):
    frames = random_frames(policy.geometry, height, width)
    features = policy.encode_video(frames)
    before = [tensor.clone() for tensor in tensors(features)]
    for swaps in ([(0, 11)], [(3, 4), (5, 8), (8, 3)]):
        order = torch.arange(12)
        for a, b in swaps:
            order[[a, b]] = order[[b, a]]
        moved = order != torch.arange(12)
        assert_same(policy.reencode_video(features, frames[order], moved), policy.encode_video(frames[order]))
        assert all(torch.equal(a, b) for a, b in zip(tensors(features), before, strict=True))  # the input is left alone


def test_only_moved_patches_are_encoded(policy, monkeypatch):
    frames = random_frames(policy.geometry, 2, 2)
    features, counts, encode = policy.encode_video(frames), [], policy.encode_video
    monkeypatch.setattr(policy, "encode_video", lambda some: counts.append(len(some)) or encode(some))
    moved = torch.zeros(12, dtype=torch.bool)
    assert policy.reencode_video(features, frames, moved) is features
    assert counts == []
    moved[[3, 4, 5]] = True
    policy.reencode_video(features, frames, moved)
    assert counts == [4]  # two temporal patches of two frames


def test_a_frozen_copy_shares_the_tower_and_nothing_else(own_policy):
    own_policy.train()
    reference = own_policy.frozen_copy()
    towers = [dict(model.tower.named_parameters()) for model in (own_policy, reference)]
    assert all(towers[0][name].data_ptr() == towers[1][name].data_ptr() for name in towers[0])
    policy_decoder, reference_decoder = own_policy.decoder.parameters(), reference.decoder.parameters()
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(policy_decoder, reference_decoder, strict=True))
    assert reference.model.lm_head.weight is reference.decoder.embed_tokens.weight  # tied as the policy's
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert all(parameter.requires_grad for parameter in own_policy.decoder.parameters())
    assert own_policy.decoder.training and not reference.decoder.training
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    with torch.no_grad():
        for parameter in own_policy.decoder.parameters():
            parameter.add_(0.01)
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())


def test_freezing_the_tower_freezes_the_tower_alone(own_policy):
    trained = {name for name, parameter in own_policy.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in own_policy.named_parameters() if "visual" not in name}
    assert trained


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_saved_weights_load_as_a_transformers_folder(policy, tmp_path, dtype):
    policy.save_pretrained(tmp_path, dtype=dtype)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.dtype == (torch.float32 if dtype is None else torch.bfloat16)
    assert next(policy.parameters()).dtype == torch.float32
    mine, theirs = policy.model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value.to(theirs[name].dtype), theirs[name]), name


def test_an_unknown_dtype_is_refused(model_folder):
    with pytest.raises(ValueError, match=r"'fp32', allowed: float32, bfloat16, float16"):
        QwenVL.from_pretrained(model_folder, dtype="fp32")
