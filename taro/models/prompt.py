"""Query and video -> the token ids, positions and frames that the model takes. The only prompt builder.

P prompt tokens, F frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taro.errors import TaroError
from taro.models.families import VIDEO_SLOT, VIDEO_TOKEN, ModelError, load_config, load_geometry, load_tokenizer
from taro.models.positions import mrope_positions
from taro.prompts import DEFAULT_PROMPT, build_request, find_tag
from taro.video.load import Video


class PromptError(TaroError):
    """The prompt can't be built, or has more tokens than allowed."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, made by `PromptBuilder`, read by rollouts and scoring."""

    input_ids: Tensor  # (P,)
    position_ids: Tensor  # (3, P)
    video_mask: Tensor  # (P,) bool, the tokens that stand for merged patches
    video: Video  # frames (F, 3, H, W)
    unexpanded_ids: tuple[int, ...] = ()  # with one video token for the whole video, as engines take them

    def to(self, device: torch.device | str) -> Prompt:
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            video_mask=self.video_mask.to(device),
            video=replace(self.video, frames=self.video.frames.to(device)),
        )


class PromptBuilder:
    """Builds prompts for one model. Holds its tokenizer, config and patch geometry, and no weights.

    Args:
        name_or_path: folder or hub name of the model.
        template: the request after the video, with `{query}`.
        max_tokens: prompts longer than this are refused.
    """

    def __init__(self, name_or_path: str, template: str = DEFAULT_PROMPT, max_tokens: int = 7168) -> None:
        self.config, self.family = load_config(name_or_path)
        self.geometry = load_geometry(name_or_path, self.config, self.family)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(name_or_path)
        self.name_or_path, self.template, self.max_tokens = name_or_path, template, max_tokens
        self.video_token_id = self.tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
        build_request("check", template)

    def build(self, query: str, video: Video, instruction: str = "") -> Prompt:
        """The prompt for this query and video; `instruction`: what a task asks for below the template.

        Raises:
            PromptError: more than `max_tokens` tokens, or a query that contains the text of a special token, or a think or
                answer tag.
        """
        grid = self.geometry.grid(video.frames.shape)
        layout = self.family.layout(self.config, grid, video.timestamps, video.fps)
        text = self._chat_text(query, instruction)
        expanded = text.replace(VIDEO_SLOT, layout.text)
        unexpanded_ids, ids = (self.tokenizer(form, add_special_tokens=False)["input_ids"] for form in (text, expanded))
        input_ids = torch.tensor(ids)  # (P,)
        video_mask = input_ids == self.video_token_id
        if len(input_ids) > self.max_tokens:
            raise PromptError(
                f"the prompt has {len(input_ids)} tokens, {int(video_mask.sum())} of them video; "
                f"{self.max_tokens} are allowed. Lower max_tokens or fps of the grounding settings' video (in evaluation: "
                "evaluation_video), or raise their max_prompt_tokens (evaluation_max_prompt_tokens)."
            )
        positions = mrope_positions(video_mask, layout.grids, layout.interval)
        return Prompt(input_ids, positions, video_mask, video, tuple(unexpanded_ids))

    def _chat_text(self, query: str, instruction: str) -> str:
        """The conversation up to where the policy goes on, with one VIDEO_SLOT."""
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        if found := [token for token in special if token in query]:
            raise PromptError(
                f"the query {query!r} contains {', '.join(found)}, which the model would not read as text: take it out"
            )
        if tag := find_tag(query):
            raise PromptError(f"the query {query!r} contains {tag}, which would be read as the model's reasoning: take it out")
        content = [{"type": "video"}, {"type": "text", "text": build_request(query, self.template, instruction)}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        ).removesuffix("<think>\n")  # with which Qwen3.5's template goes on: the policy writes it itself
        if text.count(VIDEO_SLOT) != 1 or text.count(VIDEO_TOKEN) != 1:
            raise PromptError(
                f"the chat shows {text.count(VIDEO_TOKEN)} video tokens and needs 1: either the prompt template contains "
                "one, or the model's chat template writes none"
            )
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of completion text (constructed paths), without special tokens: what looks like one is text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    @property
    def eos_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no eos_token")
        return self.tokenizer.eos_token_id

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a completion: the end of the turn, and the end of a text, which base models write."""
        return frozenset({self.eos_id, self.tokenizer.convert_tokens_to_ids("<|endoftext|>")})

    def decode(self, ids: Tensor | list[int]) -> str:
        """Text of completion ids, the tokens that end it left out."""
        kept = [i for i in (ids.tolist() if isinstance(ids, Tensor) else ids) if i not in self.end_ids]
        return self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def token_spans(self, ids: Tensor | list[int]) -> tuple[str, list[tuple[int, int]]]:
        """Text of completion ids, and for each token its (start, end) characters in it.

        Byte-level tokens may hold part of a character: lengths are measured on the decoded prefix, in whole characters.
        """
        text, spans, pending = "", [], []
        for token in ids.tolist() if isinstance(ids, Tensor) else ids:
            if token not in self.end_ids:
                pending.append(token)
            piece = self.decode(pending)
            spans.append((len(text), len(text) + len(piece)))
            if not piece.endswith("\ufffd"):
                text, pending = text + piece, []
        return text + self.decode(pending), spans
