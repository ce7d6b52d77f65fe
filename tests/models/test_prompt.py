from dataclasses import replace

import pytest
import torch

from taro.models.families import VIDEO_SLOT
from taro.models.prompt import PromptBuilder, PromptError
from taro.synthetic.architecture import TINY_PROMPT
from taro.video.load import Video

TEXTS = [
    "From 3.5s to 12.0s, the red square moves left",
    "naïve café, 日本語, emoji 😀👩‍👩‍👧 and \ufffd itself",
    "",
    "😀",
    " \n\t two  spaces\n\n",
    "looks like <|im_end|> and <|video_pad|>",
]


def make_video(builder, frames=8, height=2, width=3, fps=2.0):
    pixels = torch.randint(0, 256, (frames, 3, height * builder.geometry.factor, width * builder.geometry.factor))
    return Video(pixels.to(torch.uint8), torch.arange(frames).double() / fps, fps, frames / fps)


def test_text_around_the_video(builder):
    prompt = builder.build("the dog runs.", make_video(builder))
    text = builder.tokenizer.decode(prompt.input_ids)
    pads = "<|video_pad|>" * 6
    slot = VIDEO_SLOT.replace("<|video_pad|>", pads)
    times = ["<0.2 seconds>", "<1.2 seconds>", "<2.2 seconds>", "<3.2 seconds>"]
    if builder.family.model_type == "qwen2_5_vl":
        video = VIDEO_SLOT.replace("<|video_pad|>", pads * 4)
    else:
        video = VIDEO_SLOT.replace("<|video_pad|>", "".join(time + slot for time in times))
    request = "When does this happen: the dog runs?"
    assert text == f"<|im_start|>user\n{video}{request}<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.video_mask.sum() == 24
    assert torch.equal(prompt.video_mask, prompt.input_ids == builder.video_token_id)
    assert prompt.input_ids.dtype == prompt.position_ids.dtype == torch.int64
    assert prompt.position_ids.shape == (3, len(prompt.input_ids))


def test_a_template_that_begins_to_think_leaves_it_to_the_policy(builder, monkeypatch):
    """As that of Qwen3.5."""
    video = make_video(builder)
    plain = builder.build("x", video)
    monkeypatch.setattr(builder.tokenizer, "chat_template", builder.tokenizer.chat_template + "{{ '<think>\\n' }}")
    assert torch.equal(builder.build("x", video).input_ids, plain.input_ids)


def test_timestamps_are_the_frames_own(builder):
    """Qwen3-VL and Qwen3.5 name each temporal patch by the mean of its frames' times, in tenths of a second."""
    video = make_video(builder, frames=6)
    video = replace(video, timestamps=torch.tensor([0.0, 0.31, 5.0, 5.52, 61.2, 62.0], dtype=torch.float64))
    text = builder.tokenizer.decode(builder.build("x", video).input_ids)
    shown = [f"<{time} seconds><|vision_start|>" in text for time in ("0.2", "5.3", "61.6")]
    assert shown == [builder.family.labels_times] * 3


@pytest.mark.parametrize(("fps", "expected"), [(2.0, 2.0), (1.0, 4.0), (1.6, 2.5), (0.3, 40 / 3)])
def test_real_fps_reaches_the_positions(builder, fps, expected):
    prompt = builder.build("x", make_video(builder, fps=fps))
    temporal = prompt.position_ids[0, prompt.video_mask].reshape(4, 6)
    assert (temporal == temporal[:, :1]).all()
    steps = (temporal[:, 0] - temporal[0, 0]).tolist()
    if builder.family.model_type == "qwen2_5_vl":
        seconds = torch.tensor(expected / 2, dtype=torch.float32).item()  # as the processors hand it on
        assert steps == [int(t * seconds * 2) for t in range(4)]
    else:
        between = builder.tokenizer(f"<{1 / fps:.1f} seconds>")["input_ids"]
        assert steps[1] == len(between) + 2 + 3  # time, vision_start and vision_end, and a run that is 3 tokens wide


def test_text_goes_on_after_the_largest_position(builder):
    prompt = builder.build("x", make_video(builder, fps=0.2))
    last = int(prompt.video_mask.nonzero().max())
    largest = int(prompt.position_ids[:, : last + 1].max())
    following = torch.arange(largest + 1, largest + len(prompt.input_ids) - last)
    assert torch.equal(prompt.position_ids[:, last + 1 :], following.expand(3, -1))


def test_the_budget_error_says_what_to_change(model_folder, builder):
    video = make_video(builder)
    length = len(builder.build("x", video).input_ids)
    assert len(PromptBuilder(model_folder, TINY_PROMPT, length).build("x", video).input_ids) == length
    message = f"{length} tokens, 24 of them video; {length - 1} are.*max_tokens or fps.*max_prompt_tokens"
    with pytest.raises(PromptError, match=message):
        PromptBuilder(model_folder, TINY_PROMPT, length - 1).build("x", video)


@pytest.mark.parametrize("tag", ["<think>", "</ANSWER>"])
def test_a_query_with_a_tag_is_refused(builder, tag):
    with pytest.raises(PromptError, match=f"contains {tag}, which would be read as the model's reasoning"):
        builder.build(f"a dog {tag} jumps", make_video(builder))


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|im_end|>", "<|endoftext|>"])
def test_a_query_with_special_tokens_is_refused(builder, token):
    with pytest.raises(PromptError, match=r"the query .* contains <\|" + token[2:-2]):
        builder.build(f"a cat {token} sits", make_video(builder))


def test_a_template_with_a_video_is_refused(model_folder, builder):
    with pytest.raises(PromptError, match="2 video tokens"):
        PromptBuilder(model_folder, "{query} " + VIDEO_SLOT).build("x", make_video(builder))


def test_a_template_without_query_is_refused(model_folder):
    with pytest.raises(ValueError, match="query"):
        PromptBuilder(model_folder, "When?")


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back_and_their_tokens_cover_them(builder, text):
    ids = builder.encode(text)
    assert builder.decode(ids) == builder.decode(torch.tensor([*ids, builder.eos_id])) == text
    assert builder.eos_id not in ids and builder.video_token_id not in ids
    found, spans = builder.token_spans([*ids, builder.eos_id])
    assert found == text and len(spans) == len(ids) + 1
    assert spans[-1] == (len(text), len(text))  # the end token has no characters
    assert {place for start, end in spans for place in range(start, end)} == set(range(len(text)))
    assert spans == sorted(spans) and all(0 <= start <= end <= len(text) for start, end in spans)


def test_token_spans_of_plain_text_are_the_tokens_own_texts(builder):
    text = "From 3.5s to 12.0s, the red square moves left"
    ids = builder.encode(text)
    found, spans = builder.token_spans(torch.tensor(ids))
    assert [found[start:end] for start, end in spans] == [builder.tokenizer.decode([token]) for token in ids]


def test_every_token_of_a_split_character_has_the_character(builder):
    ids = builder.encode("a日b")
    assert len(ids) == 5  # no merges for it in this vocabulary
    assert builder.token_spans(ids) == ("a日b", [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)])


@pytest.mark.parametrize("seed", range(5))
def test_token_spans_of_any_tokens_give_the_decoded_text(builder, seed):
    ids = torch.randint(0, len(builder.tokenizer), (60,), generator=torch.Generator().manual_seed(seed))
    text, spans = builder.token_spans(ids)
    assert text == builder.decode(ids)
    assert len(spans) == len(ids) and max(end for _, end in spans) <= len(text)
