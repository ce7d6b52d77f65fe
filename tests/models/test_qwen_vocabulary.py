"""Qwen's own vocabulary, which the package dashscope brings along as a file, on tiny weights: prompts, constructed prefixes,
what tokens stand for, and logits as wide as the real ones. Without the package this is skipped: pip install --no-deps dashscope
"""

import base64
import importlib.util
import random
from pathlib import Path

import pytest
import torch
from tolerances import LOG_PROBS
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from taro.data.samples import Caption
from taro.models.families import PLACEHOLDERS
from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import pack_group
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.prompts import constructed_path, full_path
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings
from taro.synthetic.architecture import CHAT_TEMPLATE, build_config, build_model, write_preprocessor
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import draw_scene
from taro.video.load import VideoSettings

PACKAGE = importlib.util.find_spec("dashscope")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PACKAGE is None, reason="dashscope is not installed")]
# The ids from 151,643 on, in their order.
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
VOCABULARY = 152064  # rows of the 7B's head: more than there are tokens


@pytest.fixture(scope="module")
def tokenizer():
    lines = Path(PACKAGE.submodule_search_locations[0], "resources", "qwen.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    letters = bytes_to_unicode()
    shown = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token, whole in shown.items():  # in the order of their ranks; of one token, the earliest pair first
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(first, second) for first, second in pairs if first in ranks and second in ranks]
        merges += [(shown[a], shown[b]) for a, b in sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))]
        assert len(token) == 1 or known, whole
    made = Qwen2Tokenizer(vocab={shown[token]: rank for token, rank in ranks.items()}, merges=merges)
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    made.eos_token = "<|im_end|>"
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture(scope="module")
def qwen(tokenizer, tmp_path_factory):
    """Its builder and its policy."""
    folder, config = tmp_path_factory.mktemp("qwen"), build_config("qwen2_5_vl", tokenizer, layers=1)
    config.text_config.vocab_size = VOCABULARY
    build_model(config, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_preprocessor(folder, config)
    return PromptBuilder(str(folder), "When does this happen: {query}?"), QwenVL.from_pretrained(str(folder))


def test_ids_are_the_published_ones(tokenizer):
    assert len(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)) == 151643
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(151643, 151657)) and set(PLACEHOLDERS) <= set(SPECIAL)
    assert tokenizer.encode("Hello world", add_special_tokens=False) == [9707, 1879]
    assert [len(tokenizer.encode(text, add_special_tokens=False)) for text in (".\n", ">\n", "12", " left")] == [1, 1, 2, 1]


def test_from_a_prompt_to_log_probs(qwen):
    """A constructed prefix, sampled on from, has the log-probs of a pass over the whole; chunks of 152,064 logits change
    nothing, and neither do tokens that hold a part of a character."""
    builder, policy = qwen
    scene = draw_scene(3)
    video = scene_video(scene, VideoSettings(fps=1.0, max_frames=8, max_tokens=64), builder.geometry)
    prompt = builder.build("a dog runs to the left.", video)
    tokens = video.frames.shape[2] * video.frames.shape[3] // builder.geometry.factor**2 * len(video.frames) // 2
    assert int(prompt.video_mask.sum()) == tokens and int(prompt.input_ids.max()) < 151657
    captions = [Caption(1.0, 4.5, "the dog runs to the left."), Caption(6.0, 8.0, "naïve café 😀日本")]
    paths = [builder.encode(constructed_path("the dog runs", captions, random.Random(seed))) for seed in range(2)]
    request = RolloutPrompt(prompt, tuple(map(tuple, paths)), (1, 2))
    (group,) = NativeEngine(policy, builder.end_ids).generate([request], SamplingSettings(max_tokens=max(map(len, paths)) + 5))
    inputs = GroupInputs(prompt, pack_group(prompt.input_ids, group.completions), policy.encode_video(video.frames))
    with torch.no_grad():
        (whole,), (parts,) = (compute_log_probs(policy, [inputs], chunk=chunk, with_entropy=True) for chunk in (1024, 7))
    torch.testing.assert_close(parts.log_probs, whole.log_probs, atol=LOG_PROBS, rtol=0)
    torch.testing.assert_close(parts.entropy, whole.entropy, atol=LOG_PROBS, rtol=0)
    for path, completion, drawn, row in zip(paths, group.completions, group.log_probs, whole.log_probs, strict=True):
        assert completion[: len(path)].tolist() == path
        torch.testing.assert_close(drawn[len(path) :], row[len(path) : len(drawn)], atol=LOG_PROBS, rtol=0)


def test_what_tokens_stand_for(qwen):
    builder, _ = qwen
    captions = [Caption(1.0, 4.5, "the dog runs."), Caption(6.0, 8.0, "naïve café 😀日本👩‍👩‍👧")]
    text = full_path("the dog runs", captions, "1.0s to 8.0s")
    ids = builder.encode(text)
    found, spans = builder.token_spans([*ids, builder.eos_id])
    assert found == builder.decode(ids) == text and len(spans) == len(ids) + 1
    assert {place for start, end in spans for place in range(start, end)} == set(range(len(text)))
    assert any(text[start:end] == ".\n" for start, end in spans) and any(text[start:end] == ">\n" for start, end in spans)
