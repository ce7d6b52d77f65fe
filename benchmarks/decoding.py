"""What an engine reads to decode the completions of a step, and in how many steps of its own: plain arithmetic.

Their lengths are assumed. With the mean C and the longest L, the share (1 - t / L) ^ (L / C - 1) of them has more than t
tokens: all are alike where L = C, and as many end at each token where L = 2 C.

P tokens of a prompt, G completions of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from jsonargparse import Namespace
from transformers import PreTrainedConfig

from taro.errors import TaroError
from taro.run.memory import ASLEEP, BYTES, GIB, Shape, token_bytes

SERVER_SHARE = 0.92  # of its GPUs' memory, by vLLM's default


@dataclass(frozen=True)
class Engine:
    """What makes rollouts; several ranks may share it."""

    ranks: int  # whose completions it makes together
    gpus: int  # that its weights are spread over
    memory_share: float  # of each of them
    most_rows: int  # completions that it works on together, at most
    sleeps: bool  # between rollouts
    ahead: bool  # it works while ranks train with what it made before
    rendered: int  # ranks whose prompts each of them renders
    meanwhile: bool  # prompts are rendered while completions of earlier ones are made

    @classmethod
    def of(cls, model: Namespace, text: PreTrainedConfig, ranks: int, server_gpus: int | None) -> Engine:
        """By the section `model` of a config, the decoder's config, and how many ranks train. A server's weights are spread
        over all of its GPUs, which are its own.

        Raises:
            TaroError: an engine that is not modelled, or can't be.
        """
        heads, ahead = text.num_attention_heads, bool(model.rollouts_ahead)
        if model.engine == "vllm_server":
            if (server_gpus or 0) < 1 or heads % server_gpus:
                raise TaroError(f"model.engine = vllm_server: --server_gpus must be given, and divide {heads} heads")
            rows = ranks * model.vllm_server.at_once
            return cls(ranks, server_gpus, SERVER_SHARE, rows, sleeps=False, ahead=ahead, rendered=1, meanwhile=True)
        if model.engine != "vllm":
            raise TaroError(f"model.engine = {model.engine}: only vllm and vllm_server are modelled")
        if server_gpus is not None or ahead:
            raise TaroError("--server_gpus and model.rollouts_ahead are for model.engine = vllm_server")
        size = model.vllm.tensor_parallel_size
        if ranks % size or heads % size:
            raise TaroError(f"model.vllm.tensor_parallel_size = {size}: must divide {ranks} ranks and {heads} heads")
        share, rows, meanwhile = model.vllm.gpu_memory_utilization, model.vllm.max_num_seqs, model.vllm.render_meanwhile
        return cls(size, size, share, rows, model.vllm.sleep, ahead=False, rendered=size, meanwhile=meanwhile)

    def prompts_before_longest(self, prompts: int) -> float:
        """How many a rank renders, of so many that each has, before the longest completion begins: all, or half in the mean
        where those that come after it are rendered meanwhile, since it may be of any. What else ends late is not counted."""
        count = prompts * self.rendered
        return (count + 1) / 2 if self.meanwhile else count

    def rows(self, shape: Shape, gibibytes: float, group: int, prompt: int, mean: float) -> int:
        """Completions that are decoded together: as many as the cache has room for beside weights and the engine's own needs,
        each with C tokens, and P / G of the prompt that it shares.

        Raises:
            TaroError: there is no room for those of one prompt.
        """
        cache = self.memory_share * gibibytes * GIB - ASLEEP - 2 * (shape.decoder + shape.tower) / self.gpus
        a_group = token_bytes(shape.text, BYTES["bfloat16"], self.gpus) * (prompt + group * mean)
        if cache < a_group:
            raise TaroError(
                f"doesn't fit: the engine's cache has {cache / GIB:.1f} GiB, and {group} completions of {mean:g} tokens need "
                f"{a_group / GIB:.1f}: raise its share (model.vllm.gpu_memory_utilization)"
            )
        return min(self.most_rows, int(group * cache / a_group))


def read_weights(shape: Shape) -> int:
    """How many are read for a token: those of layers, norm and head. Of embeddings it is a row, unless they are the head."""
    embeddings = 0 if shape.tied else shape.text.vocab_size * shape.text.hidden_size
    return shape.decoder - embeddings


def read_tokens(prompt: int, mean: float, longest: float) -> float:
    """Cached tokens that are read for a completion in the mean, over all of its tokens: the prompt's for each of them, and of
    its own those before it, the integral of t (1 - t / L) ^ (L / C - 1) over t."""
    return prompt * mean + longest * mean**2 / (longest + mean)


def engine_steps(rows: int, together: int, mean: float, longest: float) -> float:
    """Each of which draws a token for every completion in work, `together` of them. One begins where another ends, and when the
    last have begun the longest is waited for."""
    return longest + mean * max(0.0, rows / together - 1)
