"""Rollouts by vLLM in this process, with all prompts rendered before its first step and with each rendered while completions of
earlier ones are generated, in turns: seconds, the share of them in which the engine waits, and whether both draw the same
tokens. In an environment with vLLM, for instance the one of `make test-vllm`:

    .venv-vllm/bin/python benchmarks/rendering.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from taro.models.prompt import PromptBuilder
from taro.rollout import EngineModel, RolloutGroup, RolloutPrompt, SamplingSettings, VLLMEngine, VLLMSettings
from taro.synthetic.architecture import TINY_PROMPT
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import draw_scene
from taro.video.load import VideoSettings


class Stopwatch:
    """Seconds in which the engine works."""

    def __init__(self, engine: VLLMEngine) -> None:
        self.core, self.step, self.seconds = engine.llm.llm_engine, engine.llm.llm_engine.step, 0.0
        self.core.step = self.timed_step

    def timed_step(self) -> list:
        start = time.perf_counter()
        outputs = self.step()
        self.seconds += time.perf_counter() - start
        return outputs


def rows(groups: list[RolloutGroup]) -> list[list[int]]:
    return [completion.tolist() for group in groups for completion in group.completions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/tiny-qwen2.5-vl")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=4, help="completions of each prompt")
    parser.add_argument("--completion", type=int, default=24, help="tokens of each completion")
    parser.add_argument("--video", type=int, default=1536, help="tokens of each video, at most")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    builder = PromptBuilder(arguments.model, TINY_PROMPT)
    video = VideoSettings(fps=2.0, max_frames=64, max_tokens=arguments.video, min_tokens_per_frame=64)
    scenes = [draw_scene(number) for number in range(arguments.prompts)]
    prompts = [builder.build(scene.events[0].text, scene_video(scene, video, builder.geometry)) for scene in scenes]
    longest = max(len(prompt.input_ids) for prompt in prompts) + arguments.completion
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = EngineModel.of(builder, max_model_len=longest, dtype="float32" if device == "cpu" else "bfloat16", device=device)
    model = replace(model, end_ids=frozenset())  # all completions are as long
    engine = VLLMEngine(model, VLLMSettings(sleep=False))
    requests = [RolloutPrompt(prompt, ((),) * arguments.group, tuple(range(arguments.group))) for prompt in prompts]
    stopwatch, sampling = Stopwatch(engine), SamplingSettings(max_tokens=arguments.completion)
    wall: dict[bool, list[float]] = {False: [], True: []}
    working: dict[bool, list[float]] = {False: [], True: []}
    drawn: dict[bool, list[list[int]]] = {}
    for turn in range(1 + arguments.turns):  # the first one warms up
        for meanwhile in wall:
            engine.settings = replace(engine.settings, render_meanwhile=meanwhile)
            engine.llm.reset_prefix_cache()
            start, stopwatch.seconds = time.perf_counter(), 0.0
            drawn[meanwhile] = rows(engine.generate(requests, sampling))
            if turn:
                wall[meanwhile].append(time.perf_counter() - start)
                working[meanwhile].append(stopwatch.seconds)
    engine.close()
    same = sum(one == other for one, other in zip(*drawn.values(), strict=True))
    print(f"{len(drawn[True])} completions, {same} with the same tokens; prompts of up to {longest - arguments.completion}")
    for meanwhile, seconds in wall.items():
        idle = statistics.median(1 - at_work / whole for at_work, whole in zip(working[meanwhile], seconds, strict=True))
        name = "meanwhile" if meanwhile else "before"
        turns = ", ".join(f"{of_turn:.2f}" for of_turn in seconds)
        print(f"rendered {name:<10}{statistics.median(seconds):7.2f} s, engine idle {idle:4.0%}   ({turns})")


if __name__ == "__main__":
    main()
