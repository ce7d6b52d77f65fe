"""The settings that change what the model sees. Train, evaluation and demo share them; a model folder carries them along."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from taro.prompts import DEFAULT_PROMPT
from taro.ranges import PositiveInt
from taro.video.load import VideoSettings

FILE_NAME = "taro.json"


@dataclass(frozen=True)
class GroundingSettings:
    """How a sample becomes a prompt.

    Args:
        prompt: the request after the video, with `{query}`.
        video: which frames are taken, and how large.
        max_prompt_tokens: longer prompts are refused.
        evaluation_video: the same for validation, test and eval.py; None is as `video`.
        evaluation_max_prompt_tokens: the same there.
        instructions: what is asked for below the prompt, by task, in place of the task's own words (docs/tasks.md).
    """

    prompt: str = DEFAULT_PROMPT
    video: VideoSettings = field(default_factory=VideoSettings)
    max_prompt_tokens: PositiveInt = 7168
    evaluation_video: VideoSettings | None = field(
        default_factory=lambda: VideoSettings(max_frames=1024, max_tokens=4096)
    )
    evaluation_max_prompt_tokens: PositiveInt = 15360
    instructions: dict[str, str] | None = field(default=None, hash=False)

    def for_evaluation(self) -> GroundingSettings:
        """The settings with the evaluation's in place of the training's."""
        video = self.evaluation_video or self.video
        return replace(self, video=video, max_prompt_tokens=self.evaluation_max_prompt_tokens)

    @property
    def longest_prompt(self) -> int:
        """Tokens, in training and in evaluation."""
        return max(self.max_prompt_tokens, self.evaluation_max_prompt_tokens)

    def save(self, folder: str | Path) -> None:
        """Write `taro.json` into a model folder."""
        Path(folder, FILE_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> GroundingSettings | None:
        """The settings that a model was trained with, or None where the folder has no `taro.json`."""
        path = Path(folder, FILE_NAME)
        if not path.is_file():
            return None
        return cls.from_dict(json.loads(path.read_text()))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GroundingSettings:
        """The reverse of `dataclasses.asdict`."""
        videos = {name: value and VideoSettings(**value) for name, value in values.items() if name.endswith("video")}
        return cls(**values | videos)
