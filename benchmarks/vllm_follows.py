"""Whether vLLM samples from the policy while that is trained: the tiny model of assets/, with prompts of its world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import pack_group
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.rollout import EngineModel, RolloutPrompt, SamplingSettings, VLLMEngine, VLLMSettings
from taro.synthetic.architecture import TINY_PROMPT, TINY_VIDEO
from taro.synthetic.pretraining import scene_video
from taro.synthetic.world import draw_scene

TINY = Path(__file__).parents[1] / "assets" / "tiny-qwen2.5-vl"
STEPS, PROMPTS, GROUP = 3, 4, 4
LEARNING_RATE = 1e-4


def differences(device: str) -> Iterator[float]:
    """Mean difference, nats a token, of vLLM's log-probs and the trainer's, after each of STEPS updates of the weights."""
    dtype = "float32" if device == "cpu" else "bfloat16"
    policy, builder = QwenVL.from_pretrained(str(TINY), dtype).to(device), PromptBuilder(str(TINY), TINY_PROMPT)
    policy.freeze_tower()
    scenes = [draw_scene(number) for number in range(PROMPTS)]
    prompts = [builder.build(scene.events[0].text, scene_video(scene, TINY_VIDEO, builder.geometry)) for scene in scenes]
    model = EngineModel.of(builder, max_model_len=1024, dtype=dtype, device=torch.device(device).type)
    engine = VLLMEngine(model, VLLMSettings(gpu_memory_utilization=0.2))
    optimizer = torch.optim.AdamW([one for one in policy.parameters() if one.requires_grad], lr=LEARNING_RATE)
    try:
        for step in range(STEPS):
            requests = [RolloutPrompt(prompt, ((),) * GROUP, tuple(range(step, step + GROUP))) for prompt in prompts]
            engine.sync(policy.named_weights())
            rollouts = engine.generate(requests, SamplingSettings(max_tokens=64))
            engine.sleep()
            own = [prompt.to(policy.device) for prompt in prompts]
            groups = [
                GroupInputs(
                    prompt,
                    pack_group(prompt.input_ids, [row.to(policy.device) for row in rollout.completions]),
                    policy.encode_video(prompt.video.frames),
                )
                for prompt, rollout in zip(own, rollouts, strict=True)
            ]
            found = compute_log_probs(policy, groups)
            rows = [one.log_probs[group.packed.response_mask] for one, group in zip(found, groups, strict=True)]
            engines = torch.cat([row for rollout in rollouts for row in rollout.log_probs]).to(policy.device)
            yield float((torch.cat(rows).detach() - engines).abs().mean())
            (-torch.cat(rows).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        engine.close()
