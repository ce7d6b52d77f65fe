"""Whether the native engine's greedy completions, a batch at a time, are those of transformers' `generate`, a prompt at a time:

    python benchmarks/greedy.py --model assets/tiny-qwen3.5 --data data/synthetic/test.jsonl

Exits with 1 where one is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from taro.command_line import Parser
from taro.data.samples import load_samples
from taro.errors import clean_exit
from taro.models.prompt import Prompt, PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings
from taro.video.geometry import frames_to_patches
from taro.video.load import load_video


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split(":")[0].replace("\n", " "))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--max_tokens", type=int, default=160)
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args(arguments)
    settings = GroundingSettings.load(args.model)
    builder = PromptBuilder(args.model, settings.prompt, settings.max_prompt_tokens)
    policy = QwenVL.from_pretrained(args.model).eval()
    engine, sampling = NativeEngine(policy, builder.end_ids), SamplingSettings(temperature=0.0, max_tokens=args.max_tokens)
    everything, same = load_samples(args.data), 0
    for start in range(0, len(everything), args.batch_size):
        samples = everything[start : start + args.batch_size]
        videos = [load_video(one.video, clip=None, settings=settings.video, geometry=builder.geometry) for one in samples]
        prompts = [builder.build(sample.query, video) for sample, video in zip(samples, videos, strict=True)]
        groups = engine.generate([RolloutPrompt(prompt, ((),), (0,)) for prompt in prompts], sampling)
        for prompt, group in zip(prompts, groups, strict=True):
            same += group.completions[0].tolist() == generate(policy, builder, prompt, args.max_tokens)
        print(f"{same} of {start + len(samples)} are the same", flush=True)
    sys.exit(same < len(everything))


def generate(policy: QwenVL, builder: PromptBuilder, prompt: Prompt, max_tokens: int) -> list[int]:
    """transformers' greedy completion."""
    frames, length = prompt.video.frames, len(prompt.input_ids)
    output = policy.model.generate(
        input_ids=prompt.input_ids[None],
        attention_mask=torch.ones(1, length, dtype=torch.long),
        position_ids=prompt.position_ids[:, None],
        pixel_values_videos=frames_to_patches(frames, policy.geometry),
        video_grid_thw=torch.tensor([policy.geometry.grid(frames.shape)]),
        suppress_tokens=policy.suppressed_ids.tolist(),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=sorted(builder.end_ids),
        pad_token_id=0,
    )
    return output[0, length:].tolist()


if __name__ == "__main__":
    with clean_exit():
        main()
