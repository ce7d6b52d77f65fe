"""A GRPO step the plain way: every pass repeats the prompt for each completion, and every pass encodes the video again. This is
what TaRO's released code, TRL and verl do, with transformers' own model and `generate`.

G completions, P prompt tokens, C completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL
from taro.video.geometry import frames_to_patches


class PlainWay:
    """Transformers' model on whole sequences, `rows` of them in a batch."""

    def __init__(self, policy: QwenVL, reference: QwenVL, prompt: Prompt, rows: int) -> None:
        self.policy, self.reference, self.prompt, self.rows = policy, reference, prompt, rows
        self.grid = torch.tensor([policy.geometry.grid(prompt.video.frames.shape)], device=policy.device)  # (1, 3)

    def video(self, frames: Tensor, rows: int) -> dict[str, Tensor]:
        """The model's video arguments, the same video for each row."""
        patches = frames_to_patches(frames, self.policy.geometry).to(self.policy.tower.dtype)
        return {"pixel_values_videos": patches.repeat(rows, 1), "video_grid_thw": self.grid.repeat(rows, 1)}

    def generate(self, group: int, length: int) -> Tensor:
        """(G, C) completions of exactly `length` tokens."""
        prompt = self.prompt
        output = self.policy.model.generate(
            input_ids=prompt.input_ids.repeat(group, 1),
            attention_mask=torch.ones(group, len(prompt.input_ids), dtype=torch.long, device=self.policy.device),
            position_ids=prompt.position_ids[:, None].repeat(1, group, 1),
            **self.video(prompt.video.frames, group),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            min_new_tokens=length,
            max_new_tokens=length,
            suppress_tokens=self.policy.suppressed_ids.tolist(),
            pad_token_id=5,
        )
        return output[:, len(prompt.input_ids) :]

    def log_probs(self, model: QwenVL, completions: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, C) log-probs of B completions, with the prompt before each."""
        prompt, (rows, length) = self.prompt, completions.shape
        after = int(prompt.position_ids.max()) + 1 + torch.arange(length, device=completions.device)
        positions = torch.cat([prompt.position_ids, after.expand(3, -1)], dim=1)
        logits = model.model(
            input_ids=torch.cat([prompt.input_ids.repeat(rows, 1), completions], dim=1),
            position_ids=positions[:, None].repeat(1, rows, 1),
            logits_to_keep=length + 1,
            use_cache=False,
            **self.video(prompt.video.frames if frames is None else frames, rows),
        ).logits[:, :-1]
        logits = logits.float().index_fill(-1, model.suppressed_ids, float("-inf"))
        return torch.log_softmax(logits, dim=-1).gather(-1, completions[..., None])[..., 0]
