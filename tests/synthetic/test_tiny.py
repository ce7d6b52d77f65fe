import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, LlamaConfig, Qwen3_5MoeConfig, Qwen3_5TextConfig

from taro.models.families import PLACEHOLDERS, ModelError, load_config, load_geometry
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.synthetic.architecture import ACTIONS, COLORS, SHAPES, build_config, build_tokenizer, save_random


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("tiny") / family, family, seed=3)


def test_transformers_loads_the_folder(folder, family):
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert model.config.model_type == family
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert model.config.video_token_id == tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone(folder, family, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    same, other = (save_random(tmp_path / str(seed), family, seed) for seed in (3, 4))
    assert torch.equal(torch.rand(3), expected)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, same, other)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    "text", ["", " ", "plain words\n\n", "日本語 العربية", "😀👩‍👩‍👧", "\x00\x1f\u200b\ufffd", "12.5s <think>", "ǅ ﬁ ½"]
)
def test_any_text_survives_a_round_trip(folder, text):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
    assert all(0 <= token < len(tokenizer) for token in ids)


def test_the_worlds_words_and_each_digit_are_one_token(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = {word for name in (*COLORS, *SHAPES, *ACTIONS) for word in name.split()}
    assert {word: len(tokenizer(f" {word}")["input_ids"]) for word in words} == dict.fromkeys(words, 1)
    assert len(tokenizer("12.5")["input_ids"]) == 4


def test_special_tokens_are_one_token_each(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    ids = [tokenizer(token)["input_ids"] for token in (*PLACEHOLDERS, "<|im_start|>", "<|im_end|>")]
    assert all(len(one) == 1 for one in ids) and len({one[0] for one in ids}) == 7


def test_geometry_comes_from_the_folder(folder, family):
    config, found = load_config(str(folder))
    assert found.model_type == family
    geometry = load_geometry(str(folder), config, found)
    assert geometry.factor == {"qwen2_5_vl": 28, "qwen3_vl": 32, "qwen3_5": 32}[family]
    assert (geometry.image_mean, geometry.image_std) == (found.image_mean, found.image_std)


def test_a_stored_mean_is_taken_and_a_missing_file_is_not_missed(family, tmp_path):
    folder = save_random(tmp_path, family)
    config, found = load_config(str(folder))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    assert load_geometry(str(folder), config, found).image_mean == (0.1, 0.2, 0.3)
    path.unlink()
    assert load_geometry(str(folder), config, found).image_mean == found.image_mean


@pytest.mark.parametrize("load", [QwenVL.from_pretrained, PromptBuilder])
def test_a_folder_without_config_is_refused(tmp_path, load):
    with pytest.raises(ModelError, match=r"no readable config.json .* Qwen2.5-VL, Qwen3-VL or dense Qwen3.5"):
        load(str(tmp_path))


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ModelError, match="there is no such folder"):
        load_config(str(tmp_path / "nothing" / "here"))


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "no_such_model"}'])
def test_a_broken_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="has no readable config"):
        load_config(str(tmp_path))


@pytest.mark.parametrize("load", [QwenVL.from_pretrained, PromptBuilder])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3_5TextConfig, Qwen3_5MoeConfig])
def test_another_kind_of_model_is_refused(tmp_path, load, kind):
    kind().save_pretrained(tmp_path)
    allowed = "qwen2_5_vl, qwen3_vl, qwen3_5: dense models with a vision tower"
    with pytest.raises(ModelError, match=f"is a '{kind.model_type}' model, allowed: {allowed}"):
        load(str(tmp_path))


def test_a_tokenizer_without_vision_tokens_is_refused(folder, tmp_path, family):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    build_config(family, build_tokenizer()).save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks .*video_pad.* not a Qwen-VL tokenizer"):
        QwenVL.from_pretrained(str(tmp_path))


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family = 'qwen9', allowed: qwen2_5_vl, qwen3_vl, qwen3_5"):
        build_config("qwen9", build_tokenizer())
