"""Rollouts by vLLM in this process. What it makes of a prompt is compared with what the trainer makes of it.

G completions of a prompt, C_i tokens of completion i, P prompt tokens.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from taro.models.families import Family, placeholder_ids
from taro.models.patches import PatchGeometry, frames_to_patches
from taro.models.prompt import Prompt, PromptBuilder
from taro.rl.rollout.engine import EngineError, RolloutGroup, RolloutPrompt, SamplingSettings, require_room
from taro.rl.rollout.seam import SeamError, compare_ids, compare_values

SUPPRESSED = -100.0  # added to the logits of vision tokens; vLLM takes no less


def vllm_is_installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True)
class VLLMSettings:
    """vLLM's own settings.

    Args:
        tensor_parallel_size: ranks that share one engine.
        max_model_len: longest prompt with its completion; None: as long as the data and sampling settings allow.
        gpu_memory_utilization: share of the GPU's memory that the engine takes.
        enforce_eager: no CUDA graphs.
        sleep: give the GPU's memory back between rollouts.
        check_every: generations from one full comparison of a prompt's pixels to the next; ids and grids are always compared.
    """

    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.4
    enforce_eager: bool = False
    sleep: bool = True
    check_every: int = 50


@dataclass(frozen=True)
class EngineModel:
    """What an engine has to know of the model."""

    name_or_path: str
    family: Family
    geometry: PatchGeometry
    end_ids: frozenset[int]  # tokens that end a completion
    suppressed_ids: tuple[int, ...]  # tokens that are never drawn
    max_model_len: int  # prompt and completion
    dtype: str
    device: str  # cpu or cuda

    @classmethod
    def of(cls, builder: PromptBuilder, *, max_model_len: int, dtype: str, device: str) -> EngineModel:
        """The model that a prompt builder builds for."""
        suppressed = tuple(placeholder_ids(builder.tokenizer))
        return cls(
            builder.name_or_path, builder.family, builder.geometry, builder.end_ids, suppressed, max_model_len, dtype, device
        )


class VLLMEngine:
    """Samples with vLLM, whose weights are those of the last `sync`.

    Args:
        model: what is sampled from.
        settings: vLLM's.

    Raises:
        EngineError: vLLM is not installed, or can't load the model.
    """

    is_policy = False

    def __init__(self, model: EngineModel, settings: VLLMSettings = VLLMSettings()) -> None:
        self.model, self.settings = model, settings
        self.asleep = False
        self.stale = False  # the weights were given up: only a sync makes the engine usable again
        self.generations = 0
        self.request_numbers = itertools.count()
        self.llm = self._start()

    def _start(self) -> Any:
        if not vllm_is_installed():
            raise EngineError("the engine vllm needs vLLM: pip install 'taro[vllm]', or set model.engine to native")
        # In this process: weights are handed over, not copied between processes.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        cpu = self.model.device == "cpu"
        if cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        from vllm import LLM

        gc.collect()  # an engine that is collected later would take this one's process groups along
        set_num_threads = torch.set_num_threads
        settings, distributed = self.settings, torch.distributed.is_initialized()
        try:
            return LLM(
                self.model.name_or_path,
                dtype=self.model.dtype,
                seed=0,
                max_model_len=settings.max_model_len or self.model.max_model_len,
                tensor_parallel_size=settings.tensor_parallel_size,
                distributed_executor_backend="external_launcher" if distributed and not cpu else "uni",
                gpu_memory_utilization=settings.gpu_memory_utilization,
                enforce_eager=settings.enforce_eager or cpu,
                enable_sleep_mode=settings.sleep and not cpu,
                logprobs_mode="processed_logprobs",  # of the distribution that is sampled from
                limit_mm_per_prompt={"image": 0, "video": 1},
                mm_processor_cache_gb=0,  # a prompt is rendered once for its group
                enable_chunked_prefill=not cpu,  # a CPU's generators can't be rewound after a part of a prompt
                skip_mm_profiling=cpu,
                disable_log_stats=True,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM can't run {self.model.name_or_path}: {error}") from error
        finally:
            # On a CPU vLLM puts a function that does nothing in its place; forked data workers hang without the real one.
            torch.set_num_threads = set_num_threads

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt.

        Raises:
            SeamError: vLLM reads a prompt differently from the trainer.
            EngineError: vLLM failed.
            ValueError: a constructed prefix that leaves no room for a token.
        """
        require_room(prompts, sampling)
        groups = dict(self.stream(prompts, sampling, len(prompts)))
        return [groups[number] for number in range(len(prompts))]

    def stream(
        self, prompts: Iterable[RolloutPrompt], sampling: SamplingSettings, at_once: int
    ) -> Iterator[tuple[int, RolloutGroup]]:
        """Groups as they are finished, with the numbers of their prompts; as many as `at_once` prompts are in the engine, and
        the next is taken when one leaves. Raises as `generate`."""
        if self.stale:
            raise EngineError("the engine has no weights: sync them after it slept or was restarted")
        self.generations += 1
        source, open_groups = enumerate(prompts), {}
        asked: dict[str, tuple[int, int]] = {}  # request -> prompt, completion
        try:
            while True:
                for number, prompt in itertools.islice(source, at_once - len(open_groups)):
                    open_groups[number] = (prompt, {})
                    asked |= self._add(number, prompt, sampling)
                if not open_groups:
                    return
                for output in self.llm.llm_engine.step():
                    if output.finished:
                        number, row = asked.pop(output.request_id)
                        prompt, finished = open_groups[number]
                        finished[row] = output.outputs[0]
                        if len(finished) == len(prompt.seeds):
                            del open_groups[number]
                            yield number, _group(prompt.prefixes, [finished[row] for row in range(len(finished))])
        except (SeamError, ValueError):
            raise
        except Exception as error:
            raise EngineError(f"vLLM failed while generating: {type(error).__name__}: {error}") from error
        finally:
            if asked:  # given up in the middle
                self.llm.llm_engine.abort_request(list(asked))

    def _add(self, number: int, prompt: RolloutPrompt, sampling: SamplingSettings) -> dict[str, tuple[int, int]]:
        """Ask for a group; returns the numbers of prompt and completion by request."""
        rendered = self._render(prompt.prompt, whole=number == 0 and self.generations % self.settings.check_every == 1)
        asked = {}
        for row, (prefix, seed) in enumerate(zip(prompt.prefixes, prompt.seeds, strict=True)):
            request = str(next(self.request_numbers))
            ids = [*rendered["prompt_token_ids"], *prefix]
            parameters = self._parameters(sampling, seed, len(prefix))
            self.llm.llm_engine.add_request(request, {**rendered, "prompt_token_ids": ids}, parameters)
            asked[request] = number, row
        return asked

    def _parameters(self, sampling: SamplingSettings, seed: int, prefix: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            seed=seed % 2**63,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=sampling.max_tokens - prefix,
            logprobs=0,  # the drawn token's
            logit_bias=dict.fromkeys(self.model.suppressed_ids, SUPPRESSED),
            stop_token_ids=list(self.model.end_ids),
            ignore_eos=True,  # of the generation config: the ends are ours
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _render(self, prompt: Prompt, whole: bool) -> dict[str, Any]:
        """vLLM's own reading of a prompt, which must be the trainer's: its token ids and grid, and if `whole` its pixels and
        positions, too."""
        video = prompt.video
        metadata = self.model.family.metadata(video.timestamps, video.fps)
        frames = video.frames.permute(0, 2, 3, 1).cpu().numpy()  # (F, H, W, 3)
        (rendered,) = self.llm.renderer.render_cmpl(
            [
                {
                    "prompt_token_ids": list(prompt.unexpanded_ids),
                    "multi_modal_data": {"video": [(frames, metadata | {"do_sample_frames": False})]},
                    "mm_processor_kwargs": {"do_resize": False, "do_sample_frames": False},
                }
            ]
        )
        compare_ids(rendered["prompt_token_ids"], prompt.input_ids.tolist())
        (item,) = rendered["mm_kwargs"]["video"]
        values, geometry = item.get_data(), self.model.geometry
        compare_values("grid", values["video_grid_thw"].flatten(), torch.tensor(geometry.grid(tuple(video.frames.shape))))
        if whole:
            pixels = values["pixel_values_videos"]
            if pixels.dtype == torch.uint8:  # vLLM's model normalises them, with mean and std of the folder
                geometry = replace(geometry, image_mean=(0.0,) * 3, image_std=(1 / 255,) * 3)
            compare_values("pixels", pixels, frames_to_patches(video.frames.cpu(), geometry))
            compare_values("positions", self._positions(rendered, item), prompt.position_ids.cpu())
        return rendered

    def _positions(self, rendered: dict[str, Any], item: Any) -> Tensor:
        """(3, P) M-RoPE positions by vLLM's model."""
        from vllm.multimodal.inputs import MultiModalFeatureSpec

        (place,) = rendered["mm_placeholders"]["video"]
        feature = MultiModalFeatureSpec(data=item, modality="video", identifier="", mm_position=place)
        ids = rendered["prompt_token_ids"]
        return self.llm.apply_model(lambda model: model.get_mrope_input_positions(ids, [feature])[0])[0].cpu()

    def sync(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's weights, one whole tensor at a time, and forget all that was computed with the old ones."""
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False
        try:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": _whole(named_parameters)})
            if self.model.device == "cpu":
                self.llm.apply_model(_repack_tied_head)
            self.llm.reset_prefix_cache()
            self.llm.llm_engine.reset_mm_cache()
            self.llm.llm_engine.reset_encoder_cache()
        except Exception as error:
            raise EngineError(f"vLLM failed to take over the weights: {type(error).__name__}: {error}") from error
        self.stale = False

    def sleep(self) -> None:
        """Give the GPU's memory back, weights included, until the next `sync`."""
        if self.settings.sleep and self.model.device != "cpu" and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep = self.stale = True

    def close(self) -> None:
        """Free what vLLM holds."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            gc.collect()

    def restart(self) -> None:
        """A fresh engine in place of one that failed, with the weights of the next `sync`."""
        self.close()
        self.llm, self.asleep, self.stale = self._start(), False, True


def _repack_tied_head(model: nn.Module) -> None:
    """A head that is tied to the embeddings has their new values, but on a CPU it computes with a packed copy of the old."""
    head = model.language_model.lm_head
    if head.weight is model.language_model.model.embed_tokens.weight:
        head.quant_method.process_weights_after_loading(head)


def _whole(named_parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Sharded parameters gathered one at a time."""
    for name, parameter in named_parameters:
        value = parameter.detach()
        yield name, value.full_tensor() if isinstance(value, DTensor) else value


def _group(prefixes: Sequence[tuple[int, ...]], outputs: Sequence[Any]) -> RolloutGroup:
    """The completions of one prompt, prefixes included."""
    completions, log_probs = [], []
    for prefix, output in zip(prefixes, outputs, strict=True):
        drawn = [place[token].logprob for token, place in zip(output.token_ids, output.logprobs, strict=True)]
        completions.append(torch.tensor([*prefix, *output.token_ids]))
        log_probs.append(torch.tensor([float("nan")] * len(prefix) + drawn, dtype=torch.float32))
    return RolloutGroup(tuple(completions), tuple(log_probs), tuple(output.finish_reason == "stop" for output in outputs))
