"""What has to be right on a device before its speed is worth anything: each check compares a fast way with the plain one.

G completions, P prompt tokens, C completion tokens.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from plain import PlainWay
from torch import Tensor, nn
from workload import build_policy, build_prompt, random_completions, use_attention

from taro.models.adapters import LoRASettings, adapters_off, add_adapters, peft_is_installed
from taro.models.attention import FLEX, SHARED_PREFIX
from taro.models.checkpoint import named_tensors, read_into, write
from taro.models.compiled import CompilerError, compile_layers, require_compiler
from taro.models.log_probs import GroupInputs, compute_log_probs
from taro.models.packing import Pack, pack_group
from taro.models.prompt import Prompt
from taro.models.qwen_vl import QwenVL
from taro.models.sharding import gathered, shard
from taro.models.tower_attention import attend_to_segments
from taro.rl.settings import OptimizerSettings
from taro.rl.update import make_optimizer
from taro.rollout import NativeEngine, RolloutPrompt, SamplingSettings

LOG_PROB = 1e-4  # nats, in float32
COSINE = 1e-4  # one minus that of two gradients, in float32
NORM = 1e-3  # what the ratio of their norms is off one, in float32
ROUGHER = 1.3  # times the mean error of the plain way, where both compute in bfloat16
RAGGED = ((127, 128, 129, 1), (30, 64), (5, 100, 17))  # tokens of the completions of three groups


@dataclass(frozen=True)
class Check:
    """A number that may be at most `limit`; or None, and why it could not be had, which may be that the check `failed`."""

    name: str
    value: float | None
    limit: float | None = None
    remark: str = ""
    failed: bool = False

    @property
    def wrong(self) -> bool:
        return self.value is not None and not self.value <= self.limit  # nan is wrong, too


@dataclass
class Subject:
    """A small model in float32 and its prompts."""

    size: str
    device: str
    prompt_tokens: int
    frames: int

    @cached_property
    def policy(self) -> QwenVL:
        return build_policy(self.size, "qwen2_5_vl", self.device)

    @cached_property
    def prompt(self) -> Prompt:
        return build_prompt(self.policy, self.prompt_tokens, self.frames)

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def tidy(self) -> None:
        """After a check that raised, and may have left the model half changed: the same weights again, in a new one."""
        self.__dict__.pop("policy", None)

    def groups(self, lengths: Sequence[Sequence[int]] = RAGGED, policy: QwenVL | None = None) -> list[GroupInputs]:
        """Groups of the prompt with completions of so many random tokens."""
        policy = policy or self.policy
        with torch.no_grad():
            features = policy.encode_video(self.prompt.video.frames)
        found = []
        for number, own in enumerate(lengths):
            rows = random_completions(policy, len(own), max(own), seed=number)
            packed = pack_group(self.prompt.input_ids, [row[:length] for row, length in zip(rows, own, strict=True)])
            found.append(GroupInputs(self.prompt, packed, features))
        return found


def in_bfloat16(policy: QwenVL) -> QwenVL:
    """A copy, as one that is loaded so: what its positions are rotated by stays in float32."""
    half = copy.deepcopy(policy)
    for parameter in half.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return half


def log_probs(policy: QwenVL, groups: Sequence[GroupInputs]) -> Tensor:
    """Of all response tokens, one after the other."""
    found = compute_log_probs(policy, groups)
    return torch.cat([one.log_probs[group.packed.response_mask] for one, group in zip(found, groups, strict=True)])


def gradients(policy: nn.Module, loss: Tensor) -> Tensor:
    """Of all trained parameters, one after the other."""
    policy.zero_grad(set_to_none=True)
    loss.backward()
    found = torch.cat([one.grad.flatten().float() for one in policy.parameters() if one.grad is not None])
    policy.zero_grad(set_to_none=True)
    return found


def compare_gradients(name: str, found: Tensor, expected: Tensor) -> Iterator[Check]:
    """Their directions, and their norms, of which the cosine knows nothing."""
    found, expected = found.double(), expected.double()
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    yield Check(f"{name}, gradients", 1.0 - float(cosine), COSINE)
    yield Check(f"{name}, norm of gradients", abs(float(found.norm() / expected.norm()) - 1.0), NORM)


# ---- Checks ----


def packed_is_plain(subject: Subject) -> Iterator[Check]:
    """A group in one pass against its completions one by one."""
    policy, lengths = subject.policy, (40, 40, 40)
    (group,) = subject.groups([lengths])
    rows = group.packed.completion_ids
    plain = PlainWay(policy, policy, subject.prompt, len(lengths))
    ours = log_probs(policy, [group])
    with use_attention(policy, "sdpa"):
        theirs = plain.log_probs(policy, rows).flatten()
        expected = gradients(policy, (theirs**2).mean())
    yield Check("packed = plain, log-probs", float((ours - theirs).detach().abs().max()), LOG_PROB)
    yield from compare_gradients("packed = plain", gradients(policy, (ours**2).mean()), expected)
    half = in_bfloat16(policy)
    with torch.no_grad():
        (rough,) = subject.groups([lengths], half)
        packed = (log_probs(half, [rough]) - theirs).abs().mean()
        with use_attention(half, "sdpa"):
            loops = (PlainWay(half, half, subject.prompt, len(lengths)).log_probs(half, rows).flatten() - theirs).abs().mean()
    yield Check("bfloat16: error of packed / error of plain", float(packed / loops), ROUGHER)


def attentions_agree(subject: Subject) -> Iterator[Check]:
    """Ragged groups, alone and together, in one pass each."""
    policy, groups = subject.policy, subject.groups()
    for count in range(1, len(groups) + 1):
        ours = log_probs(policy, groups[:count])
        expected = gradients(policy, (ours**2).mean())
        for name in (FLEX, "sdpa"):
            with use_attention(policy, name), torch.set_grad_enabled(name != FLEX or subject.cuda):
                theirs = log_probs(policy, groups[:count])
                difference = float((ours - theirs).detach().abs().max())
                yield Check(f"{SHARED_PREFIX} = {name}, {count} groups", difference, LOG_PROB)
                if theirs.requires_grad:
                    found = gradients(policy, (theirs**2).mean())
                    yield from compare_gradients(f"{SHARED_PREFIX} = {name}, {count} groups", found, expected)
    if subject.cuda:
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        yield Check(f"{FLEX}: graphs compiled for packs of all lengths", float(graphs), 2)
    else:
        yield Check(f"{FLEX}: gradients", None, COSINE, "needs a GPU")


def checkpointing_changes_nothing(subject: Subject) -> Iterator[Check]:
    policy, groups = subject.policy, subject.groups()
    expected = gradients(policy, log_probs(policy, groups).mean())
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    found = gradients(policy, log_probs(policy, groups).mean())
    policy.eval()
    policy.model.gradient_checkpointing_disable()
    yield Check("gradient checkpointing", float((found - expected).norm() / expected.norm()), 1e-3)


def compiled_is_plain(subject: Subject) -> Iterator[Check]:
    """Decoder layers, with gradient checkpointing, whose backward pass runs them again."""
    try:
        require_compiler("cuda" if subject.cuda else "cpu")
    except CompilerError as error:
        yield Check("compiled layers", None, COSINE, str(error))
        return
    packs = [subject.groups(), subject.groups(RAGGED[:1])]
    expected = [gradients(subject.policy, log_probs(subject.policy, groups).mean()) for groups in packs]
    policy = copy.deepcopy(subject.policy)
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    compile_layers(policy.decoder)
    for groups, wanted in zip(packs, expected, strict=True):
        found = gradients(policy, log_probs(policy, groups).mean())
        yield from compare_gradients(f"compiled layers, {len(groups)} groups", found, wanted)


def optimizer_goes_on_from_a_checkpoint(subject: Subject) -> Iterator[Check]:
    """Two steps of the device's AdamW, with a checkpoint between them, against two of the plain one."""
    values, steps = [], torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)).to(subject.device)
    with tempfile.TemporaryDirectory() as folder:
        for fused in (True, False):
            weight = nn.Parameter(torch.ones(64, 64, device=subject.device))
            for number, gradient in enumerate(steps):
                optimizer = make_optimizer([weight], OptimizerSettings(learning_rate=0.1))
                if not fused:
                    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.01, foreach=False)
                path = Path(folder, str(fused))
                if number:
                    read_into(path, {"weight": weight}, optimizer)
                weight.grad = gradient
                optimizer.step()
                if not number:
                    write(path, named_tensors({"weight": weight}, optimizer), None, alone=True)
            values.append(weight.detach())
    yield Check("AdamW of this device, through a checkpoint", float((values[0] - values[1]).abs().max()), 1e-5)


def device_is_never_waited_for(subject: Subject) -> Iterator[Check]:
    """In the decoder's passes; `compute_log_probs` reads sizes, before and after."""
    if not subject.cuda:
        yield Check("host waits for the device in a pass", None, 0, "needs a GPU")
        return
    policy, (group,) = subject.policy, subject.groups(RAGGED[:1])
    log_probs(policy, [group])  # what is read once has been
    inputs = (group.packed.input_ids[None], group.packed.position_ids(subject.prompt.position_ids)[:, None])
    torch.cuda.set_sync_debug_mode("error")
    try:
        policy.hidden_states(*inputs, pack=Pack((group.packed,))).float().square().mean().backward()
        waited = 0.0
    except RuntimeError as error:
        waited = 1.0
        print(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        policy.zero_grad(set_to_none=True)
    yield Check("host waits for the device in a pass", waited, 0)


@torch.no_grad()
def tower_is_transformers(subject: Subject) -> Iterator[Check]:
    """Windows of one length in a call; and a shuffled video of which only what moved is encoded again."""
    policy, frames = subject.policy, subject.prompt.video.frames
    ours = policy.encode_video(frames)
    order = torch.arange(len(frames))
    order[len(order) // 2 :] = order[len(order) // 2 :].flip(0)
    shuffled = frames[order.to(frames.device)]
    again = policy.reencode_video(ours, shuffled, order != torch.arange(len(order)))
    whole = policy.encode_video(shuffled)
    policy.model.set_attn_implementation({"text_config": SHARED_PREFIX, "vision_config": "sdpa"})
    theirs = policy.encode_video(frames)
    attend_to_segments(policy.tower)
    for name, first, second in (("tower in few calls", ours, theirs), ("moved frames alone encoded again", again, whole)):
        scale = second.embeds.abs().mean()
        yield Check(name, float((first.embeds - second.embeds).abs().max() / scale), 1e-4)


@torch.no_grad()
def engine_samples_from_the_policy(subject: Subject) -> Iterator[Check]:
    """Its log-probs against teacher forcing; in bfloat16, where both are rounded, the errors of both."""

    def score(policy: QwenVL, completions: Sequence[Tensor]) -> Tensor:
        packed = pack_group(subject.prompt.input_ids, [one.to(policy.device) for one in completions])
        return log_probs(policy, [GroupInputs(subject.prompt, packed, policy.encode_video(subject.prompt.video.frames))])

    def sample(policy: QwenVL) -> tuple[tuple[Tensor, ...], Tensor]:
        request = RolloutPrompt(subject.prompt, ((),) * 8, tuple(range(8)))
        (drawn,) = NativeEngine(policy, end_ids=()).generate([request], SamplingSettings(max_tokens=48))
        return drawn.completions, torch.cat(drawn.log_probs).to(policy.device)

    completions, values = sample(subject.policy)
    largest = (values - score(subject.policy, completions)).abs().max()
    yield Check("native engine = teacher forcing, log-probs", float(largest), LOG_PROB)
    half = in_bfloat16(subject.policy)
    completions, values = sample(half)
    exact = score(subject.policy, completions)
    errors = [(found - exact).abs().mean() for found in (values, score(half, completions))]
    yield Check("bfloat16: error of native engine / error of teacher forcing", float(errors[0] / errors[1]), ROUGHER)


@torch.no_grad()
def adapters_can_be_left_out(subject: Subject) -> Iterator[Check]:
    if not peft_is_installed():
        yield Check("adapters", None, 0, "needs peft: pip install -e '.[lora]'")
        return
    policy, groups = copy.deepcopy(subject.policy), subject.groups(RAGGED[1:2])
    base = log_probs(policy, groups)
    add_adapters(policy.model, LoRASettings(rank=8, alpha=16))
    yield Check("new adapters change nothing", float((log_probs(policy, groups) - base).abs().max()), 0)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            parameter.normal_(std=0.02)
    changed = log_probs(policy, groups)
    yield Check("trained adapters change something (1: nothing)", float(torch.equal(changed, base)), 0)
    with adapters_off(policy.model):
        yield Check("adapters off = none", float((log_probs(policy, groups) - base).abs().max()), 0)


def sharded_is_whole(subject: Subject) -> Iterator[Check]:
    """FSDP2 over a mesh of one rank: the gathers, hooks and casts are those of many."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    groups = subject.groups()
    expected = log_probs(subject.policy, groups)
    grads = gradients(subject.policy, expected.mean())
    kind = "cuda" if subject.cuda else "cpu"
    with tempfile.NamedTemporaryFile() as store:
        backend = "nccl" if subject.cuda else "gloo"
        init_process_group(backend, init_method=f"file://{store.name}", rank=0, world_size=1)
        try:
            policy = copy.deepcopy(subject.policy)
            shard(policy, init_device_mesh(kind, (1,)), None)
            with gathered(policy):
                found = log_probs(policy, groups)
                difference = float((found - expected).detach().abs().max())
                found.mean().backward()
            own = torch.cat([one.grad.full_tensor().flatten() for one in policy.parameters() if one.grad is not None])
        finally:
            destroy_process_group()
    yield Check("FSDP2 on one rank, log-probs", difference, LOG_PROB)
    yield from compare_gradients("FSDP2 on one rank", own, grads)


def vllm_has_the_policys_weights(subject: Subject) -> Iterator[Check]:
    """Three steps with a large learning rate; the engine sleeps, wakes and takes the weights over each time."""
    if importlib.util.find_spec("vllm") is None:
        yield Check("vLLM after sleep and sync", None, 0, "vLLM is not installed")
        return
    if subject.cuda and torch.cuda.current_device():
        yield Check("vLLM after sleep and sync", None, 0, "vLLM takes cuda:0: choose a GPU by CUDA_VISIBLE_DEVICES")
        return
    from vllm_follows import differences

    for step, difference in enumerate(differences(subject.device), start=1):
        yield Check(f"vLLM after sleep and sync, step {step}, mean", difference, 0.02)


CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    packed_is_plain,
    attentions_agree,
    checkpointing_changes_nothing,
    compiled_is_plain,
    optimizer_goes_on_from_a_checkpoint,
    device_is_never_waited_for,
    tower_is_transformers,
    engine_samples_from_the_policy,
    adapters_can_be_left_out,
    sharded_is_whole,
    vllm_has_the_policys_weights,
)
