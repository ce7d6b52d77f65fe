"""How each engine reads a prompt, and how likely it finds an answer: ours, transformers' own processor and model, vLLM.

P prompt tokens, C tokens of the answer, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import cached_file

from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import pack_group
from taro.models.prompt import Prompt, PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.prompts import build_request
from taro.rollout import PromptMismatch, RolloutPrompt, SamplingSettings, VLLMEngine
from taro.rollout.vllm_prompts import sampling_parameters
from taro.run.doctor_checks import (
    DIFFERS,
    OK,
    Finding,
    check_blocks,
    check_grid,
    check_ids,
    check_labels,
    check_log_probs,
    check_placeholders,
)
from taro.video.geometry import frames_to_patches

SAVED = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")  # as transformers looks
DRAWN = 24  # tokens of an answer that vLLM draws


@dataclass(frozen=True)
class Case:
    """What is put to all of them."""

    builder: PromptBuilder
    query: str
    prompt: Prompt
    answer: tuple[int, ...]  # (C,) token ids

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.builder.geometry.grid(tuple(self.prompt.video.frames.shape))

    @property
    def placeholders(self) -> dict[str, int]:
        return self.builder.tokenizer.get_vocab()

    def check_reading(self, of: str, ids: list[int]) -> Iterator[Finding]:
        """Of a whole prompt as an engine reads it."""
        builder, geometry = self.builder, self.builder.geometry
        if of != "ours":
            yield check_ids(of, ids, self.prompt.input_ids.tolist())
        mask = torch.tensor(ids) == builder.video_token_id
        yield check_blocks(of, mask, self.grid, builder.family, geometry.merge_size)
        times = self.prompt.video.timestamps
        yield check_labels(of, builder.tokenizer.decode(ids), times, builder.family, geometry.temporal_patch_size)


def saved_processor(name_or_path: str) -> dict[str, Any] | None:
    """What the files beside the weights say of videos."""
    for name in SAVED:
        found = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            stored = json.loads(Path(found).read_text())
            stored = stored.get("video_processor", stored if name != SAVED[0] else None)
            if stored is not None:
                return stored
    return None


# ---- ours ----


@torch.no_grad()
def our_log_probs(policy: QwenVL, prompt: Prompt, answer: tuple[int, ...]) -> Tensor:
    """(C,), as training computes them."""
    prompt = prompt.to(policy.device)
    packed = pack_group(prompt.input_ids, [torch.tensor(answer)])
    inputs = GroupInputs(prompt, packed, policy.encode_video(prompt.video.frames))
    return compute_log_probs(policy, [inputs])[0].log_probs[0].cpu()


@torch.no_grad()
def never_drawn(policy: QwenVL, prompt: Prompt) -> set[int]:
    """Ids of tokens with probability zero after the prompt."""
    prompt = prompt.to(policy.device)
    hidden = policy.hidden_states(
        prompt.input_ids[None],
        prompt.position_ids[:, None],
        features=policy.encode_video(prompt.video.frames),
        video_mask=prompt.video_mask[None],
    )
    return set(policy.logits(hidden[0, -1]).isneginf().nonzero()[:, 0].tolist())


# ---- transformers ----


def torchvision_is_installed() -> bool:
    return importlib.util.find_spec("torchvision") is not None


def check_transformers_processor(case: Case) -> Iterator[Finding]:
    """Its processor of the model's folder, which is given our frames and their times."""
    from transformers import AutoProcessor
    from transformers.video_utils import VideoMetadata

    builder, video = case.builder, case.prompt.video
    processor = AutoProcessor.from_pretrained(builder.name_or_path)
    content = [{"type": "video"}, {"type": "text", "text": build_request(case.query, builder.template)}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = VideoMetadata(**builder.family.metadata(video.timestamps, video.fps))
    read = processor(
        text=[text],
        videos=[video.frames],
        videos_kwargs={"video_metadata": [metadata], "do_sample_frames": False, "do_resize": False},
        return_tensors="pt",
    )
    yield from case.check_reading("transformers", read["input_ids"][0].tolist())
    yield check_grid("transformers", read["video_grid_thw"][0].tolist(), case.grid)


def transformers_positions(policy: QwenVL, case: Case) -> Tensor:
    """(3, P), which transformers would give the same tokens."""
    prompt, vision = case.prompt, case.builder.config.vision_config
    seconds = {} if policy.family.labels_times else {"second_per_grid_ts": [vision.temporal_patch_size / prompt.video.fps]}
    positions, _ = policy.model.model.get_rope_index(
        prompt.input_ids[None], prompt.video_mask.long()[None] * 2, video_grid_thw=torch.tensor([case.grid]), **seconds
    )
    return positions[:, 0]


@torch.no_grad()
def transformers_log_probs(policy: QwenVL, prompt: Prompt, answer: tuple[int, ...], positions: Tensor) -> Tensor:
    """(C,) by transformers' whole model, which is given the prompt's positions (3, P)."""
    prompt, completion = prompt.to(policy.device), torch.tensor(answer, device=policy.device)
    following = int(positions.max()) + 1 + torch.arange(len(answer)).expand(3, -1)
    output = policy.model(
        input_ids=torch.cat([prompt.input_ids, completion])[None],
        position_ids=torch.cat([positions.cpu(), following], dim=1)[:, None].to(policy.device),
        pixel_values_videos=frames_to_patches(prompt.video.frames, policy.geometry).to(policy.tower.dtype),
        video_grid_thw=torch.tensor([policy.geometry.grid(tuple(prompt.video.frames.shape))], device=policy.device),
        logits_to_keep=len(answer) + 1,
    )
    logits = output.logits[0, :-1].float().index_fill(-1, policy.suppressed_ids, float("-inf"))  # (C, V)
    return torch.log_softmax(logits, dim=-1).gather(-1, completion[:, None])[:, 0].cpu()


# ---- vLLM ----


def check_vllm(engine: VLLMEngine, policy: QwenVL, case: Case, dtype: str) -> Iterator[Finding]:
    """An engine that has the policy's weights."""
    yield from case.check_reading("vLLM", engine.reader.render(case.prompt)["prompt_token_ids"])
    try:
        engine.reader.read(case.prompt, whole=True)
        yield Finding("grid, pixels, positions", "vLLM", OK, "as ours")
    except PromptMismatch as error:
        yield Finding("grid, pixels, positions", "vLLM", DIFFERS, f"{error}: is this vLLM the version that TaRO is made for?")
        return
    sampling = SamplingSettings(temperature=1.0, max_tokens=DRAWN)
    (group,) = engine.generate([RolloutPrompt(case.prompt, ((),), (0,))], sampling)
    drawn = tuple(group.completions[0].tolist())
    yield check_log_probs("vLLM", group.log_probs[0], our_log_probs(policy, case.prompt, drawn), dtype)
    banned = sampling_parameters(engine.model, sampling, seed=0, prefix=0)["logit_bias"]
    yield check_placeholders("vLLM", banned.keys() - set(drawn), case.placeholders)
