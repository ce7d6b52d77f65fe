"""DAPO (arXiv 2503.14476): what a completion loses by its length. Its other parts are settings: `model.dynamic_sampling`,
`model.loss.clip_high`, `model.loss.average`."""

from dataclasses import dataclass

from taro.rl.rewards.completion import Completion, Method


def overlong_penalty(tokens: int, longest: int, buffer: int) -> float:
    """0 up to `longest - buffer` tokens, from there down to -1 at `longest`, and -1 beyond."""
    return -min(1.0, max(0.0, (tokens - (longest - buffer)) / buffer))


@dataclass(frozen=True)
class Overlong(Method):
    """Soft punishment of the last tokens that there are (`overlong`).

    Args:
        longest: tokens of a completion, as `model.sampling.max_tokens`.
        buffer: the last of them, in which the punishment grows; a fifth of `longest` in the paper.
    """

    longest: int = 1024
    buffer: int = 205

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.buffer <= self.longest:
            raise ValueError(f"buffer must be above 0 and at most longest = {self.longest}, got {self.buffer}")

    def __call__(self, completion: Completion) -> float:
        if completion.constructed:
            return 0.0  # the length is not the policy's choice
        return overlong_penalty(len(completion.token_ids), self.longest, self.buffer)
