"""How fast the passes of a step are on a device, as shares of what the device was seen to do.

G completions, P prompt tokens, C completion tokens, S packed tokens, H heads, d head size, L layers, R response tokens.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from cost_model import Hardware
from torch import Tensor
from workload import (
    SHAPES,
    build_policy,
    build_prompt,
    current_memory,
    peak_memory,
    random_completions,
    reset_peak,
    use_attention,
)

from taro.models.attention import FLEX, shared_prefix_attention
from taro.models.compiled import CompilerError, compile_layers, require_compiler
from taro.models.log_probs import GroupInputs, compute_log_probs, token_log_probs
from taro.models.packing import Pack, pack_group
from taro.models.pass_cost import PassCost
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL
from taro.rl.usage import read_clock
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings
from taro.run.memory import GIB, activation_bytes

TERA = 1e12


@dataclass(frozen=True)
class Speed:
    """A figure; good where it is at least (`more`) or at most `good`, and best likewise. Below `least` it is neither. Or None,
    and why it could not be had, which may be that something `failed`."""

    name: str
    value: float | None
    unit: str = ""
    good: float | None = None
    best: float | None = None
    more: bool = True  # is better
    least: float | None = None
    remark: str = ""
    failed: bool = False

    def reaches(self, bound: float | None) -> bool:
        if self.value is None or bound is None:
            return bound is None
        if self.least is not None and not self.value >= self.least:
            return False
        return self.value >= bound if self.more else self.value <= bound

    @property
    def verdict(self) -> str:
        """Empty where nothing is asked."""
        if self.good is None:
            return ""
        best = self.best is not None and self.reaches(self.best)
        return "SLOW" if not self.reaches(self.good) else "best" if best else "good"

    def describe(self, bound: float | None) -> str:
        """In a few signs."""
        if bound is None:
            return ""
        return f">= {bound:g}" if self.more else f"<= {bound:g}" if self.least is None else f"{self.least:g} to {bound:g}"


@dataclass
class Job:
    """A whole model with random weights and groups of ever new lengths."""

    size: str
    device: str
    dtype: torch.dtype
    prompt_tokens: int  # P
    frames: int
    group: int  # G
    mean: int  # of C
    repeats: int
    ceiling: float  # products, teraflops
    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)  # of what `measure_parts` takes the seconds of

    @cached_property
    def policy(self) -> QwenVL:
        gc.collect()  # a model that was timed before
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        policy = build_policy(self.size, "qwen2_5_vl", self.device, self.dtype)
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        return policy

    @cached_property
    def prompt(self) -> Prompt:
        return build_prompt(self.policy, self.prompt_tokens, self.frames)

    @cached_property
    def features(self):
        with torch.no_grad():
            return self.policy.encode_video(self.prompt.video.frames)

    def tidy(self) -> None:
        """After a measurement that raised, and may have left gradients, or the model in training."""
        if "policy" in self.__dict__:
            self.policy.zero_grad(set_to_none=True)
            self.policy.eval()

    def pack(self, number: int) -> list[GroupInputs]:
        """Two groups, with other lengths for each number: C from half of the mean to twice of it."""
        generator = torch.Generator().manual_seed(number)
        found = []
        for of_pack in range(2):
            lengths = torch.randint(self.mean // 2, self.mean * 3 // 2, (self.group,), generator=generator)
            lengths[0] = 2 * self.mean - number % 7
            rows = random_completions(self.policy, self.group, int(lengths.max()), seed=2 * number + of_pack)
            packed = pack_group(self.prompt.input_ids, [row[:length] for row, length in zip(rows, lengths, strict=True)])
            found.append(GroupInputs(self.prompt, packed, self.features))
        return found

    def update(self, groups: list[GroupInputs]) -> None:
        """Forward, recomputation and backward; gradients add up."""
        self.policy.train()
        sum(one.log_probs.mean() for one in compute_log_probs(self.policy, groups)).backward()
        self.policy.eval()

    def updates(self, packs: list[list[GroupInputs]]) -> list[float]:
        """Seconds of an update over each pack; no gradients stay."""
        found = [self.time(lambda groups=groups: self.update(groups), 1)[0] for groups in packs]
        self.policy.zero_grad(set_to_none=True)
        return found

    def time(self, run: Callable[[], object], repeats: int | None = None) -> list[float]:
        """Seconds of each."""
        device, found = torch.device(self.device), []
        for _ in range(repeats or self.repeats):
            start = read_clock(device)
            run()
            found.append(read_clock(device) - start)
        return found


def product_teraflops(device: str, dtype: torch.dtype, size: int) -> float:
    """Of a product of two square matrices, the best of some: what a pass can't get above."""
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    found = []
    for _ in range(8):
        start = read_clock(first.device)
        first @ second
        found.append(read_clock(first.device) - start)
    return 2 * size**3 / min(found) / TERA


def copy_terabytes(device: str, size: int) -> float:
    """A second, read and written, of a copy of `size` bytes."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target, found = torch.empty_like(source), []
    for _ in range(8):
        start = read_clock(source.device)
        target.copy_(source)
        found.append(read_clock(source.device) - start)
    return 2 * size / min(found) / TERA


def pass_flops(job: Job, groups: list[GroupInputs]) -> tuple[float, float]:
    """Floating-point operations of a forward pass: in the decoder's products and the head, and in attention."""
    cost, packed = PassCost.of_model(job.policy), [group.packed for group in groups]
    tokens, prompts = sum(map(len, packed)), sum(group.prompt_length for group in packed)
    return cost.token * tokens + cost.response * (tokens - prompts), cost.pair * sum(group.pairs for group in packed)


def measure_passes(job: Job) -> Iterator[Speed]:
    """Forward, and forward with recomputation and backward, each time over groups of other lengths."""
    policy, ceiling = job.policy, job.ceiling * TERA
    packs = [job.pack(number) for number in range(job.repeats + 1)]

    def forward(groups: list[GroupInputs]) -> None:
        with torch.no_grad():
            compute_log_probs(policy, groups)

    forward(packs[-1])  # libraries are loaded and tuned
    news = [job.time(lambda groups=groups: forward(groups), 1)[0] for groups in packs[:-1]]
    again = [job.time(lambda groups=groups: forward(groups), 1)[0] for groups in packs[:-1]]
    flops = [sum(pass_flops(job, groups)) for groups in packs[:-1]]
    share = statistics.median(one / seconds / ceiling for one, seconds in zip(flops, again, strict=True))
    yield Speed("forward, share of the products' ceiling", share, "", 0.5, 0.65)
    yield Speed("new shapes / repeated shapes", statistics.median(news) / statistics.median(again), "x", 1.15, 1.03, more=False)
    job.update(packs[-1])
    device = torch.device(job.device)
    held = current_memory(device)  # weights and gradients
    reset_peak(device)
    updates = [job.time(lambda groups=groups: job.update(groups), 1)[0] for groups in packs[:-1]]
    used = statistics.median(3 * one / seconds / ceiling for one, seconds in zip(flops, updates, strict=True))
    yield Speed("forward, recomputation and backward: 3 forwards / ceiling", used, "", 0.30, 0.42)
    job.seconds["update"] = statistics.median(updates)
    peak = compare_with_plan(job, packs, peak_memory(device) - held)
    if device.type == "cuda":  # of the whole process on a CPU, which is not what is planned
        yield peak
    policy.zero_grad(set_to_none=True)
    yield from measure_optimizer(job)


def compare_with_plan(job: Job, packs: list[list[GroupInputs]], peak: float) -> Speed:
    """GiB that updates take beside weights and gradients, of what is planned for the largest. Far below that something is wrong
    with what was read, or with the plan."""
    tokens = max(sum(len(group.packed) for group in groups) for groups in packs)
    text, weights = job.policy.model.config.text_config, job.policy.decoder.embed_tokens.weight
    repeated = (job.prompt_tokens + 2 * job.mean) * job.group * 2 / tokens  # keys, of two groups
    planned = activation_bytes(text, tokens, weights.element_size(), checkpointing=True, repeated=repeated)
    planned += weights.nbytes * text.tie_word_embeddings  # the head's gradient waits for that of the embeddings
    return Speed("peak of an update / taro.run.memory", peak / (planned / GIB), "x", 1.10, 1.05, more=False, least=0.80)


@torch.no_grad()
def measure_parts(job: Job) -> Iterator[Speed]:
    """Of one forward pass, over pack 0: attention alone, and the head alone; and the tower."""
    policy, shape, groups = job.policy, SHAPES[job.size], job.pack(0)
    tokens, head = sum(len(group.packed) for group in groups), shape.hidden // shape.heads
    options = {"device": job.device, "dtype": job.dtype}
    query = torch.randn(1, shape.heads, tokens, head, **options)
    key, value = (torch.randn(1, shape.kv_heads, tokens, head, **options) for _ in range(2))
    pack = Pack(tuple(group.packed for group in groups))

    def score() -> None:
        compute_log_probs(policy, groups)

    def attend() -> Tensor:
        return shared_prefix_attention(policy.decoder, query, key, value, None, head**-0.5, pack)[0]

    score()
    forward = statistics.median(job.time(score))
    attend()
    attention = statistics.median(job.time(attend)) * shape.layers
    yield Speed("attention's share of a forward pass", attention / forward, "", 0.25, 0.15, more=False)
    with torch.enable_grad():
        states = [state.requires_grad_() for state in (query, key, value)]
        output = attend()
    upstream = torch.randn_like(output)

    def attend_backward() -> None:
        torch.autograd.grad(output, states, upstream, retain_graph=True)

    attend_backward()
    backward = statistics.median(job.time(attend_backward)) * shape.layers
    responses = sum(int(group.response_mask.sum()) for group in pack.groups)
    hidden = torch.randn(responses, shape.hidden, **options)
    targets = torch.randint(8, shape.vocabulary, (responses,), device=job.device)

    def project() -> None:
        token_log_probs(policy, hidden, targets, with_entropy=True)

    project()
    heads = statistics.median(job.time(project))
    yield Speed("the head's share of a forward pass", heads / forward, "", 0.08, 0.04, more=False)

    def encode() -> None:
        policy.encode_video(job.prompt.video.frames)

    encode()
    tower = statistics.median(job.time(encode))
    yield Speed("tower, seconds a video", tower, "s", 0.25, 0.10, more=False)
    products, pairs = pass_flops(job, groups)
    weights, patches = sum(one.numel() for one in policy.tower.parameters()), 4 * int(job.prompt.video_mask.sum())
    job.flops |= {"products": products, "attention": pairs, "tower": 2.0 * weights * patches}
    job.seconds |= {"forward": forward, "attention": attention, "attention backward": backward, "head": heads, "tower": tower}


@torch.no_grad()
def measure_decoding(job: Job) -> Iterator[Speed]:
    """Of the native engine, 16 rows; for tests and small models, so nothing is asked of it but to be usable."""
    engine, counts = NativeEngine(job.policy, end_ids=()), (8, 24)
    request = RolloutPrompt(job.prompt, ((),) * 16, tuple(range(16)), job.features)
    engine.generate([request], SamplingSettings(max_tokens=4))
    few, many = (
        job.time(lambda count=count: engine.generate([request], SamplingSettings(max_tokens=count)), 1)[0] for count in counts
    )
    yield Speed("native engine, a token of 16 rows", 1000 * (many - few) / (counts[1] - counts[0]), "ms", 60, more=False)


def measure_optimizer(job: Job) -> Iterator[Speed]:
    """AdamW and the clip of the gradients on one layer, times the layers, beside the update's passes, which come first."""
    layer = job.policy.decoder.layers[0]
    weights = [torch.nn.Parameter(parameter.detach().clone()) for parameter in layer.parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    step()
    seconds = statistics.median(job.time(step)) * SHAPES[job.size].layers
    yield Speed("AdamW and clip / passes of an update", seconds / job.seconds["update"], "", 0.05, 0.02, more=False)
    job.seconds["optimizer"] = seconds


def read_rates(job: Job, sheet: Hardware, terabytes: float) -> dict[str, float]:
    """What `benchmarks/cost_model.py` takes in place of its guesses: shares of the data sheet.

    Args:
        terabytes: a second, of a copy.
    """
    peak, seconds, flops = sheet.teraflops * TERA, job.seconds, job.flops
    return {
        "matmul": flops["products"] / (seconds["forward"] - seconds["attention"]) / peak,
        "attention": flops["attention"] / seconds["attention"] / peak,
        "attention_backward": 2 * flops["attention"] / seconds["attention backward"] / peak,  # twice, as the model counts it
        "tower": flops["tower"] / seconds["tower"] / peak,
        "bandwidth": terabytes / sheet.terabytes,
    }


@contextmanager
def compiled(policy: QwenVL) -> Iterator[None]:
    """Decoder layers are, inside."""
    compile_layers(policy.decoder)
    try:
        yield
    finally:
        for layer in policy.decoder.layers:
            del layer.forward  # the class's own is found again


def time_beside_plain(job: Job, name: str, way: AbstractContextManager[None]) -> Iterator[Speed]:
    """Updates inside `way`, and the plain ones over the same packs. Nothing is asked of it: whether to take it is to be decided
    by these figures. What it compiles, the first update does."""
    first, *packs = (job.pack(number) for number in range(1 + max(1, job.repeats // 3)))
    _, *plain = job.updates([first, *packs])
    torch.compiler.reset()  # as if nothing else had been compiled, whose variants count
    with way:
        start, *found = job.updates([first, *packs])
    job.seconds[f"update, {name}"] = statistics.median(found)
    ratio = statistics.median(one / other for one, other in zip(found, plain, strict=True))
    yield Speed(f"update, {name} / plain", ratio, "x", more=False)
    yield Speed(f"update, {name}, the first", start, "s", more=False)


def measure_flex(job: Job) -> Iterator[Speed]:
    if job.device.startswith("cuda"):
        yield from time_beside_plain(job, "flex attention", use_attention(job.policy, FLEX))
    else:
        yield Speed("update, flex attention / plain", None, remark="needs a GPU")


def measure_compiled(job: Job) -> Iterator[Speed]:
    try:
        require_compiler(torch.device(job.device).type)
    except CompilerError as error:
        yield Speed("update, compiled layers / plain", None, remark=str(error))
        return
    yield from time_beside_plain(job, "compiled layers", compiled(job.policy))


MEASURES: tuple[Callable[[Job], Iterator[Speed]], ...] = (
    measure_passes,
    measure_parts,
    measure_decoding,
    measure_flex,
    measure_compiled,
)
