"""Rollouts by vLLM in this process. What it makes of a prompt is compared with what the trainer makes of it."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed import ProcessGroup

from taro.distributed import world_size
from taro.models.families import torch_dtype
from taro.models.weights import Weight, whole_weights
from taro.ranges import PositiveInt, PositiveShare
from taro.rollout.engine import EngineError, RolloutGroup, RolloutPrompt, SamplingSettings, require_room
from taro.rollout.scheduler import run_jobs
from taro.rollout.vllm_prompts import (
    READING,
    Drawn,
    EngineModel,
    PromptMismatch,
    PromptReader,
    make_rollout,
    sampling_parameters,
    vllm_is_installed,
)
from taro.video.geometry import PatchGeometry


@dataclass(frozen=True)
class VLLMSettings:
    """vLLM's own settings.

    Args:
        tensor_parallel_size: GPUs that one engine's weights are spread over; in training as many ranks, one after the other,
            which then generate for all of their prompts together.
        max_model_len: longest prompt with its completion; None: as long as the data and sampling settings allow.
        gpu_memory_utilization: share of the GPU's memory that the engine takes.
        max_num_seqs: completions that it works on together; memory is kept for so many also while it sleeps.
        load_format: `auto` reads the model's weights from disk; `dummy` makes random ones, for training alone, where the
            policy's come before the first rollout: then a model is read once.
        enforce_eager: no CUDA graphs.
        sleep: give the GPU's memory back between rollouts.
        check_every: generations from one full comparison of a prompt's pixels to the next; ids and grids are always compared.
        render_meanwhile: render prompts while completions of earlier ones are generated. Which completions share a step of the
            engine is then a matter of time, and with it the last bits of their log-probs.
    """

    tensor_parallel_size: PositiveInt = 1
    max_model_len: PositiveInt | None = None
    gpu_memory_utilization: PositiveShare = 0.4
    max_num_seqs: PositiveInt = 256
    load_format: Literal["auto", "dummy"] = "auto"
    enforce_eager: bool = False
    sleep: bool = True
    check_every: PositiveInt = 50
    render_meanwhile: bool = True


class VLLMEngine:
    """Samples with vLLM, whose weights are those of the last `sync`.

    Raises:
        EngineError: vLLM is not installed, or can't load the model.
    """

    is_policy = False

    def __init__(self, model: EngineModel, settings: VLLMSettings = VLLMSettings()) -> None:
        self.model, self.settings = model, settings
        self.asleep = False
        self.stale = settings.load_format == "dummy"  # without weights: only a sync makes the engine usable
        self.generations = 0
        self.request_numbers = itertools.count()
        self.partners: ProcessGroup | None = None  # the ranks that share the engine
        self._start()

    def _start(self) -> None:
        if not vllm_is_installed():
            raise EngineError("the engine vllm needs vLLM: pip install -e '.[vllm]', or take the engine native")
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
        if distributed:
            # torchrun sets both, Lightning's launcher the second, SLURM neither.
            os.environ.setdefault("RANK", str(torch.distributed.get_rank()))
            os.environ.setdefault("LOCAL_RANK", "0" if cpu else str(torch.cuda.current_device()))
        parallel = settings.tensor_parallel_size > 1
        if parallel and distributed:
            self.partners = _partners(settings.tensor_parallel_size)
        executor = "external_launcher" if distributed and (parallel or not cpu) else "mp" if parallel else "uni"
        try:
            self.llm = LLM(
                self.model.name_or_path,
                dtype=self.model.dtype,
                seed=0,
                max_model_len=settings.max_model_len or self.model.max_model_len,
                tensor_parallel_size=settings.tensor_parallel_size,
                distributed_executor_backend=executor,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                max_num_seqs=settings.max_num_seqs,
                load_format=settings.load_format,
                enforce_eager=settings.enforce_eager or cpu,
                enable_sleep_mode=settings.sleep and not cpu,
                logprobs_mode="processed_logprobs",  # of the distribution that is sampled from
                enable_chunked_prefill=not cpu,  # a CPU's generators can't be rewound after a part of a prompt
                enable_prefix_caching=False if cpu and self.model.family.recurrent else None,  # of states it needs chunks
                skip_mm_profiling=cpu,
                disable_log_stats=True,
                **READING,
            )
            self.reader = PromptReader(self.model, self.llm.llm_engine.vllm_config, self.llm.renderer)
            if settings.load_format == "dummy":
                self.llm.apply_model(partial(_renew_buffers, self.model.geometry))
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise EngineError(f"vLLM can't run {self.model.name_or_path}: {error}") from error
        finally:
            # On a CPU vLLM puts a function that does nothing in its place; forked data workers hang without the real one.
            torch.set_num_threads = set_num_threads

    def generate(self, prompts: Sequence[RolloutPrompt], sampling: SamplingSettings) -> list[RolloutGroup]:
        """One group for each prompt.

        Raises:
            PromptMismatch: vLLM reads a prompt differently from the trainer.
            EngineError: vLLM failed.
            ValueError: a constructed prefix that leaves no room for a token.
        """
        require_room(prompts, sampling)
        prompts, own = self._with_partners(prompts)
        groups = dict(self.stream(prompts, sampling, len(prompts)))
        return [groups[number] for number in own]

    def _with_partners(self, prompts: Sequence[RolloutPrompt]) -> tuple[list[RolloutPrompt], range]:
        """The prompts of all ranks that share the engine, which each of them has to ask for in the same order; and which are
        this rank's."""
        if self.partners is None:
            return list(prompts), range(len(prompts))
        mine = [replace(_on_cpu(prompt), features=None) for prompt in prompts]
        parts: list[list[RolloutPrompt]] = [[] for _ in range(self.settings.tensor_parallel_size)]
        torch.distributed.all_gather_object(parts, mine, group=self.partners)
        place = torch.distributed.get_rank(self.partners)
        start = sum(len(part) for part in parts[:place])
        return [prompt for part in parts for prompt in part], range(start, start + len(prompts))

    def stream(
        self, prompts: Iterable[RolloutPrompt], sampling: SamplingSettings, at_once: int
    ) -> Iterator[tuple[int, RolloutGroup]]:
        """Groups as they are finished, with the numbers of their prompts; as many as `at_once` prompts are in the engine, and
        the next is taken when one leaves. Raises as `generate`."""
        if self.stale:
            raise EngineError("the engine has no weights: sync them after it slept or was restarted, or began with dummy ones")
        self.generations += 1
        thread = ThreadPoolExecutor(1)  # one: vLLM's renderer is made for that
        jobs = run_jobs(
            prompts,
            at_once,
            # Not in the thread: on a GPU that has another stream, which does not wait for what makes frames in this one.
            prepare=lambda number, prompt: thread.submit(self._render, number, _on_cpu(prompt)),
            ready=self._is_rendered,
            submit=lambda _, read: self._ask(*read, sampling),
            collect=self._collect,
            give_up=self.llm.llm_engine.abort_request,
        )
        with thread, closing(jobs):
            for number, prompt, drawn in jobs:
                yield number, make_rollout(prompt.prefixes, drawn)

    def _render(self, number: int, prompt: RolloutPrompt) -> tuple[RolloutPrompt, dict[str, Any]]:
        """The prompt, and vLLM's reading of it."""
        whole = number == 0 and (self.generations - 1) % self.settings.check_every == 0
        with _engine_errors("to read a prompt"):
            return prompt, self.reader.read(prompt.prompt, whole)

    def _is_rendered(self, rendered: Future) -> bool:
        """Whether the next prompt goes to the engine before its next step, which ranks that share it make together."""
        if not self.settings.render_meanwhile:
            return True  # as soon as it is
        if self.partners is None:
            return rendered.done()
        there = [False] * self.settings.tensor_parallel_size
        torch.distributed.all_gather_object(there, rendered.done(), group=self.partners)
        return all(there)

    def _ask(self, prompt: RolloutPrompt, rendered: dict[str, Any], sampling: SamplingSettings) -> Iterator[str]:
        """Ask for a group: the names of its requests."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        with _engine_errors("while generating"):
            for prefix, seed in zip(prompt.prefixes, prompt.seeds, strict=True):
                request = str(next(self.request_numbers))
                parameters = SamplingParams(
                    **sampling_parameters(self.model, sampling, seed, len(prefix)), output_kind=RequestOutputKind.FINAL_ONLY
                )
                ids = [*rendered["prompt_token_ids"], *prefix]
                self.llm.llm_engine.add_request(request, {**rendered, "prompt_token_ids": ids}, parameters)
                yield request

    def _collect(self, _: object) -> Iterator[tuple[str, Drawn]]:
        """Requests that are finished after one step of the engine, which may be none."""
        with _engine_errors("while generating"):
            outputs = self.llm.llm_engine.step()
        return ((output.request_id, _drawn(output.outputs[0])) for output in outputs if output.finished)

    def sync(self, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        """Take over the policy's weights, one whole tensor at a time, and forget all that was computed with the old ones. An
        engine that slept has room for keys and values again when nothing is gathered any more."""
        with _engine_errors("to take over the weights"):
            if self.asleep:
                self.llm.wake_up(["weights"])
            weights = whole_weights(named_parameters, torch_dtype(self.model.dtype))
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            if self.model.device == "cpu":
                self.llm.apply_model(_repack_tied_head)
            if self.asleep:
                self.llm.wake_up(["kv_cache"])
                self.asleep = False
            if not self.llm.reset_prefix_cache():
                raise RuntimeError("its prefix cache can't be emptied: requests are still in it")
            self.llm.llm_engine.reset_mm_cache()
            self.llm.llm_engine.reset_encoder_cache()
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
            self.llm = self.reader = None
            gc.collect()

    def restart(self) -> None:
        """A fresh engine in place of one that failed, with the weights of the next `sync`.

        Raises:
            EngineError: there are several ranks, whose process group would go with the engine.
        """
        if world_size() > 1:
            raise EngineError("an engine can't be replaced while other ranks go on; go on from the last checkpoint")
        self.close()
        self._start()
        self.asleep, self.stale = False, True


def _on_cpu(prompt: RolloutPrompt) -> RolloutPrompt:
    return replace(prompt, prompt=prompt.prompt.to("cpu"))


def _partners(size: int) -> ProcessGroup:
    """The group of `size` ranks, one after the other, that this rank is in."""
    if world_size() % size:
        raise EngineError(f"{world_size()} ranks can't share engines of model.vllm.tensor_parallel_size = {size} ranks each")
    return torch.distributed.new_subgroups(group_size=size)[0]


@contextmanager
def _engine_errors(doing: str) -> Iterator[None]:
    """What vLLM raises as an EngineError, but for what is wrong with the input."""
    try:
        yield
    except (PromptMismatch, ValueError):
        raise
    except Exception as error:
        raise EngineError(f"vLLM failed {doing}: {type(error).__name__}: {error}") from error


def _repack_tied_head(model: nn.Module) -> None:
    """Renew a head that is tied to the embeddings: it has their new values, but on a CPU it computes with a packed
    copy of the old."""
    head = model.language_model.lm_head
    if head.weight is model.language_model.model.embed_tokens.weight:
        head.quant_method.process_weights_after_loading(head)


def _renew_buffers(geometry: PatchGeometry, model: nn.Module) -> None:
    """Undo what dummy weights have done to buffers, which no sync brings: those of the norm of pixels. Those of an attention,
    its scales, vLLM has set again by now. Raises RuntimeError where there are others."""
    values = {
        "visual.input_norm.weight": 1 / 255 / torch.tensor(geometry.image_std),
        "visual.input_norm.bias": -torch.tensor(geometry.image_mean) / torch.tensor(geometry.image_std),
    }
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: value for name, value in model.state_dict().items() if name not in parameters}
    buffers = {name: value for name, value in buffers.items() if not (".attn._" in name and name.endswith("_scale"))}
    if others := buffers.keys() - values.keys():
        raise RuntimeError(f"dummy weights take the place of {', '.join(sorted(others))}, too: set load_format to auto")
    for name, buffer in buffers.items():
        buffer.copy_(values[name])


def _drawn(output: Any) -> Drawn:
    log_probs = [place[token].logprob for token, place in zip(output.token_ids, output.logprobs, strict=True)]
    return Drawn(output.token_ids, log_probs, output.finish_reason == "stop")
