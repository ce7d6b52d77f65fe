"""One prompt, read three times: by the trainer, by transformers' own processor, and by vLLM."""

import random

import pytest
import torch
from transformers import (
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.video_utils import VideoMetadata

from taro.models.families import VIDEO_SLOT
from taro.video.geometry import frames_to_patches
from taro.video.load import Video


def random_video(builder, seed):
    """2 to 24 frames of 1 to 6 tokens a side, at any rate, at times as a variable frame rate gives them."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    frames, fps = 2 * rng.randint(1, 12), rng.uniform(0.2, 6.0)
    shape = (frames, 3, *(builder.geometry.factor * rng.randint(1, 6) for _ in range(2)))
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    jitter = torch.rand(frames, generator=generator, dtype=torch.float64) / 2
    return Video(pixels, (torch.arange(frames) + jitter) / fps, fps, frames / fps)


@pytest.fixture(scope="module")
def processor(builder):
    """transformers' own, made from the folder's tokenizer and geometry."""
    geometry = builder.geometry
    settings = {
        "patch_size": geometry.patch_size,
        "merge_size": geometry.merge_size,
        "temporal_patch_size": geometry.temporal_patch_size,
        "image_mean": geometry.image_mean,
        "image_std": geometry.image_std,
    }
    qwen25 = builder.family.model_type == "qwen2_5_vl"
    kind, video = (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor) if qwen25 else (Qwen3VLProcessor, Qwen3VLVideoProcessor)
    template = builder.tokenizer.chat_template
    return kind(Qwen2VLImageProcessor(**settings), builder.tokenizer, video(**settings), chat_template=template)


def processed(processor, builder, query, video):
    metadata = VideoMetadata(**builder.family.metadata(video.timestamps, video.fps))
    return processor(
        text=[builder._chat_text(query, "")],
        videos=[video.frames],
        videos_kwargs={"video_metadata": [metadata], "do_sample_frames": False, "do_resize": False},
        return_tensors="pt",
    )


@pytest.mark.parametrize("seed", range(20))
def test_three_readings_of_a_prompt(engine, builder, processor, seed):
    """Token ids, grid, pixels and, of vLLM, positions: the reader compares them and raises where they differ."""
    video = random_video(builder, seed)
    prompt = builder.build("the red square moves left", video)
    engine.reader.read(prompt, whole=True)
    theirs = processed(processor, builder, "the red square moves left", video)
    assert theirs["input_ids"][0].tolist() == prompt.input_ids.tolist()
    assert theirs["video_grid_thw"][0].tolist() == list(builder.geometry.grid(tuple(video.frames.shape)))
    torch.testing.assert_close(theirs["pixel_values_videos"], frames_to_patches(video.frames, builder.geometry))


def test_one_video_token_stands_for_the_video(builder, prompts):
    for prompt in prompts:
        assert prompt.unexpanded_ids.count(builder.video_token_id) == 1
        assert VIDEO_SLOT in builder.tokenizer.decode(prompt.unexpanded_ids)
