"""Does a run learn as much of rollouts that are one step old? `train.py` with `model.rollouts_ahead: 1` on one machine: in the
server's place is the native engine, with weights of its own that it gets when a server would get them.

    python benchmarks/methods.py --configs taro benchmarks/ahead.yaml --program benchmarks/ahead.py --against taro --seeds 0 1 2

compares it with TaRO, whose results are in docs/results, at as many steps, of which the first has nothing to train on. A run
that was stopped begins anew: remove its folder in `--runs`. The rollouts have a thread of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from taro.models.qwen_vl import QwenVL
from taro.models.weights import Weight, whole_weights
from taro.rollout import EngineModel, NativeEngine, VLLMServerSettings, start
from taro.run import checks, commands


class Server(NativeEngine):
    """Samples from the weights that it was given last."""

    is_policy = False

    def __init__(self, model: EngineModel, settings: VLLMServerSettings) -> None:
        super().__init__(QwenVL.from_pretrained(model.name_or_path, model.dtype), model.end_ids)

    @torch.no_grad()
    def sync(self, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        own = dict(self.policy.named_weights())
        for name, value in whole_weights(named_parameters):
            own[name].copy_(value)


if __name__ == "__main__":
    start.VLLMServerEngine = Server
    checks.vllm_is_installed = lambda: True  # it isn't needed
    commands.train()
