"""What workers make of samples, and what the curriculum adds for training. G completions per prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from taro.data.samples import Sample
from taro.models.prompt import Prompt


@dataclass(frozen=True)
class GroundingExample:
    """One sample with its prompt, or with the reason why it has none."""

    sample: Sample
    prompt: Prompt | None
    failure: str | None = None

    def to(self, device: torch.device | str) -> GroundingExample:
        return self if self.prompt is None else replace(self, prompt=self.prompt.to(device))


@dataclass(frozen=True)
class TrainingExample(GroundingExample):
    """Filled by the datamodule as the curriculum says, read by the training step."""

    prefixes: tuple[tuple[int, ...], ...] = ()  # (G) token ids of the constructed path of each completion, or ()
    seeds: tuple[int, ...] = ()  # (G) of the rollouts
    shuffle_seed: int = 0  # of the perturbation

    @property
    def constructed(self) -> torch.Tensor:
        """(G,) bool."""
        return torch.tensor([bool(prefix) for prefix in self.prefixes])
