"""Seconds of one GRPO step, computed phase by phase from a config and from what the hardware can do:

    python benchmarks/cost_model.py --config configs/qwen25_7b.yaml --shape assets/shapes/qwen2.5-vl-7b --gpus 8
    python benchmarks/cost_model.py --config configs/qwen25_7b.yaml --gpus 8 --hardware h200 --measured gpu.json

A matrix product takes its floating-point operations over a share of the data sheet's rate, decoding the bytes of weights, keys
and values over a share of its bandwidth. Shares and fixed costs are ASSUMED, which is a guess until `benchmarks/gpu.py --json`
has measured them; what that file has takes their place, and the table says of each phase which it was. Communication between
GPUs is not in the model, but for groups that ranks exchange, what they wait, and the all-reduces of decoding.

P prompt tokens, C completion tokens in the mean, G completions of a prompt, N prompts of a rank, L layers, D hidden.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from decoding import Engine, engine_steps, read_tokens, read_weights
from jsonargparse import Namespace

from taro.command_line import Parser
from taro.errors import TaroError, clean_exit
from taro.files import write_json
from taro.messages import print_table
from taro.models.families import load_config
from taro.models.pass_cost import PassCost
from taro.partition import even_out, imbalance
from taro.run.cli import SettingsAlone, parse
from taro.run.memory import BYTES, Shape, plan, token_bytes

TERA = 1e12


@dataclass(frozen=True)
class Hardware:
    """Of one GPU, by its data sheet."""

    teraflops: float  # bfloat16, dense, float32 sums
    terabytes: float  # a second, of its memory
    gibibytes: float


HARDWARE = {
    "a100": Hardware(312, 2.0, 80),
    "h100": Hardware(989, 3.35, 80),
    "h200": Hardware(989, 4.8, 141),
    "rtx4090": Hardware(165, 1.0, 24),
}


@dataclass(frozen=True)
class Rates:
    """What of the hardware is reached: shares of the data sheet, and seconds that don't depend on it."""

    matmul: float = 0.63  # of the teraflops, in the decoder's products
    attention: float = 0.25  # of the teraflops, forward
    attention_backward: float = 0.18
    tower: float = 0.30  # of the teraflops
    bandwidth: float = 0.87  # of the terabytes, in decoding and in the optimizer
    decode_overhead: float = 0.0017  # seconds a token, of the engine
    all_reduce: float = 0.00001  # seconds, of a token's activations between GPUs of an engine; two a layer
    render: float = 0.3  # seconds a prompt, on the CPU
    wake: float = 0.6  # seconds, of an engine in the trainer's process
    sync_tensor: float = 0.0014  # seconds a tensor that is handed over
    sleep: float = 0.5  # seconds
    spread: float = 0.17  # of the work of a step's groups: their standard deviation over their mean
    exchange: float = 1.0  # gigabytes a second, of groups that ranks exchange, with wrapping and unwrapping


ASSUMED = Rates()


@dataclass(frozen=True)
class Work:
    """What a rank has to do in a step."""

    shape: Shape
    engine: Engine
    prompts: int  # N
    group: int  # G
    prompt_tokens: int  # P
    video_tokens: int  # of them
    completion_tokens: int  # C
    longest: int  # of all completions
    moved: float  # share of the video that the temporal gap's shuffle moves
    scored: float  # share of the groups whose gaps are measured; 0: no gap is
    reference: bool  # a pass of it is needed
    checkpointing: bool
    lora_rank: int | None
    ranks: int  # that exchange groups, and wait for each other
    sharded: bool  # they share the optimizer's state
    imbalance: float  # up to which groups stay on their ranks

    @property
    def rows(self) -> int:
        """Completions of an engine."""
        return self.engine.ranks * self.prompts * self.group

    def rows_together(self, hardware: Hardware) -> int:
        """As many of them as are decoded together. Raises TaroError where a group has no room."""
        room = self.engine.rows(self.shape, hardware.gibibytes, self.group, self.prompt_tokens, self.completion_tokens)
        return min(self.rows, room)

    @property
    def packed(self) -> int:
        """Tokens of all groups of a rank in one pass."""
        return self.prompts * (self.prompt_tokens + self.group * self.completion_tokens)

    @property
    def scores(self) -> float:
        """Pairs of a query and a key that a pass looks at, of one layer and head."""
        p, c = self.prompt_tokens, self.completion_tokens
        return self.prompts * (p * p / 2 + self.group * c * (p + c / 2))

    @property
    def trained(self) -> int:
        return self.shape.decoder if self.lora_rank is None else self.shape.adapters(self.lora_rank)


def read_work(settings: Namespace, shape: Shape, args: argparse.Namespace) -> Work:
    """Of a config: prompts as long as its videos may be, with 400 tokens of text."""
    model, data, gpus = settings.model, settings.data, args.gpus
    if data.prompts_per_step % gpus:
        raise TaroError(f"data.prompts_per_step = {data.prompts_per_step} can't be shared by {gpus} GPUs: set a multiple of it")
    video, gap = data.grounding.video.max_tokens, model.temporal_reward
    scored = 0.0 if gap is None or not args.moved else 1.0 if gap.measured == "all" else args.payable
    return Work(
        shape,
        Engine.of(model, shape.text, gpus, args.server_gpus),
        data.prompts_per_step // gpus,
        model.group_size,
        video + 400,
        video,
        args.completion,
        args.longest,
        args.moved,
        scored,
        model.loss.kl_coefficient > 0,
        model.gradient_checkpointing,
        None if model.lora is None else model.lora.rank,
        gpus,
        str(settings.trainer.strategy).startswith("fsdp2"),
        model.rank_imbalance,
    )


def pass_flops(work: Work) -> tuple[float, float]:
    """Of a forward pass over a rank's groups: in products, with the head on response tokens alone, and in attention."""
    cost = PassCost.of(work.shape.text, work.shape.layers)
    responses = work.prompts * work.group * work.completion_tokens
    return cost.token * work.packed + cost.response * responses, cost.pair * work.scores


def tower_flops(work: Work) -> float:
    """Of a rank's videos, four patches to a token."""
    return 2.0 * work.shape.tower * 4 * work.video_tokens * work.prompts


def exchange_groups(work: Work, spread: float, steps: int = 50) -> tuple[float, float]:
    """By steps that are made up: the share by which the rank with the most work is above the mean after the exchange, and the
    most groups that come to a rank, both in the mean."""
    generator, count = random.Random(0), work.ranks * work.prompts
    before = [list(range(first, first + work.prompts)) for first in range(0, count, work.prompts)]
    above, come = [], []
    for _ in range(steps):
        costs = [max(0.1, generator.gauss(1, spread)) for _ in range(count)]
        after = even_out(costs, before, work.imbalance)
        above.append(imbalance(costs, after))
        come.append(max(len(set(new) - set(old)) for new, old in zip(after, before, strict=True)))
    return statistics.mean(above), statistics.mean(come)


def most_scored(work: Work) -> float:
    """Of a rank's groups the share whose gaps are measured, on the rank that has most of those: the mean of steps."""
    count, share = work.prompts, work.scored
    chances = [math.comb(count, number) * share**number * (1 - share) ** (count - number) for number in range(count)]
    return sum(1 - at_most**work.ranks for at_most in accumulate(chances)) / count


def group_bytes(work: Work) -> int:
    """What travels of a group: features in bfloat16, and frames."""
    return work.video_tokens * (2 * work.shape.text.hidden_size + 2 * 28 * 28 * 3)


def decode_seconds(work: Work, hardware: Hardware, rates: Rates) -> float:
    """Of an engine, each of whose GPUs reads its part of weights, keys and values."""
    shape, engine = work.shape, work.engine
    steps = engine_steps(work.rows, work.rows_together(hardware), work.completion_tokens, work.longest)
    tokens = work.rows * read_tokens(work.prompt_tokens, work.completion_tokens, work.longest)
    cached = tokens * token_bytes(shape.text, BYTES["bfloat16"], engine.gpus)
    read = steps * read_weights(shape) * 2 / engine.gpus + cached
    reduced = rates.all_reduce * 2 * len(shape.layers) if engine.gpus > 1 else 0.0
    return read / (rates.bandwidth * hardware.terabytes * TERA) + steps * (rates.decode_overhead + reduced)


def step_seconds(work: Work, hardware: Hardware, rates: Rates = ASSUMED) -> dict[str, float]:
    """By phase, of the slowest rank."""
    shape, engine = work.shape, work.engine
    flops = hardware.teraflops * TERA
    bytes_a_second = rates.bandwidth * hardware.terabytes * TERA
    products, attention = pass_flops(work)
    forward = products / (rates.matmul * flops) + attention / (rates.attention * flops)
    wanted = 2 if work.lora_rank is None else 1  # gradients of what comes in, and of the weights where they are trained
    backward = wanted * products / (rates.matmul * flops) + 2 * attention / (rates.attention_backward * flops)
    tower = tower_flops(work) / (rates.tower * flops)
    own = work.trained / (work.ranks if work.sharded else 1)
    prefill = 2.0 * work.prompts * work.prompt_tokens * sum(shape.layers) / (rates.matmul * flops)
    seconds = {
        "tower": tower,
        "wake, weights": rates.wake * engine.sleeps + rates.sync_tensor * (12 * len(shape.layers) + 390),
        "render prompts": rates.render * engine.prompts_before_longest(work.prompts),
        "engine's tower, prefill": (tower + prefill) * engine.ranks / engine.gpus,
        "decode": decode_seconds(work, hardware, rates),
        "sleep": rates.sleep * engine.sleeps,
        "shuffled": (tower * work.moved + forward) * most_scored(work),
        "reference": forward if work.reference else 0.0,
        "forward": forward,
        "backward": backward + (forward if work.checkpointing else 0.0),
        "optimizer": 4 * 4 * 2 * own / bytes_a_second,  # two moments, weight, gradient: read and written
    }
    passes = sum(seconds[name] for name in ("shuffled", "reference", "forward", "backward"))
    above, come = exchange_groups(work, rates.spread)
    seconds["exchange groups"] = come * group_bytes(work) / (rates.exchange * 1e9)
    seconds["wait for slower ranks"] = above * passes
    if engine.ahead:
        rollouts = sum(seconds[name] for name in ROLLOUTS)
        seconds["done meanwhile"] = -min(rollouts, sum(seconds.values()) - rollouts - seconds["wake, weights"])
    return seconds


def model_flops_utilization(work: Work, hardware: Hardware, seconds: float, gpus: int) -> float:
    """Three forward passes over distinct tokens, of what so many GPUs, a server's included, could do in `seconds`."""
    return 3 * work.ranks * sum(pass_flops(work)) / (gpus * hardware.teraflops * TERA * seconds)


def read_rates(path: Path) -> tuple[Rates, set[str]]:
    """Those of a file of `benchmarks/gpu.py --json`, and the names of what it has measured.

    Raises:
        TaroError: it is none.
    """
    try:
        measured = json.loads(path.read_text())["rates"]
        known = {field.name for field in fields(Rates)}
        if unknown := sorted(measured.keys() - known):
            raise ValueError(f"unknown rates {', '.join(unknown)}")
        return replace(ASSUMED, **measured), set(measured)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TaroError(f"--measured {path}: not a file of benchmarks/gpu.py --json ({error})") from None


ROLLOUTS = ("render prompts", "engine's tower, prefill", "decode")
"""The phases that a server can be in while ranks train."""

FOLLOWS = {
    "tower": {"tower"},
    "wake, weights": {"wake", "sync_tensor"},
    "render prompts": {"render"},
    "engine's tower, prefill": {"tower", "matmul"},
    "decode": {"bandwidth", "decode_overhead", "all_reduce"},
    "sleep": {"sleep"},
    "shuffled": {"tower", "matmul", "attention"},
    "reference": {"matmul", "attention"},
    "forward": {"matmul", "attention"},
    "backward": {"matmul", "attention", "attention_backward"},
    "optimizer": {"bandwidth"},
    "exchange groups": {"spread", "exchange"},
    "wait for slower ranks": {"spread"},
    "done meanwhile": {field.name for field in fields(Rates)},
}
"""The rates that each phase follows from."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="as for train.py; several are stacked")
    parser.add_argument("--shape", default=None, help="folder with a config.json, in place of model.name_or_path")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--server_gpus", type=int, default=None, help="of model.engine = vllm_server, beside the others")
    parser.add_argument("--hardware", choices=HARDWARE, default="h100", help="data sheet of one GPU")
    parser.add_argument("--measured", type=Path, default=None, help="file of benchmarks/gpu.py --json")
    parser.add_argument("--completion", type=int, default=300, help="tokens of a completion in the mean (C)")
    parser.add_argument("--longest", type=int, default=600, help="tokens of the longest completion of a step")
    parser.add_argument("--moved", type=float, default=0.22, help="share of a video whose frames the shuffle moves")
    parser.add_argument(
        "--payable",
        type=float,
        default=1.0,
        help="share of groups in which a completion reaches model.temporal_reward.iou_gate; 1: nearly so where paths are "
        "constructed, an upper bound else",
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file, too")
    parser.add_argument("overrides", nargs="*", help="settings, as data.prompts_per_step=32")
    args = parser.parse_args(arguments)
    if not 0 < args.completion <= args.longest:
        parser.error(f"--completion {args.completion}, --longest {args.longest}: a mean above 0, and no more than the longest")
    if not 0 <= args.payable <= 1:
        parser.error(f"--payable {args.payable:g}: from 0 to 1")
    own = [*(f"--config={file}" for file in args.config), *(f"--{override}" for override in args.overrides)]
    settings = parse(own, SettingsAlone).config
    config = load_config(args.shape or settings.model.name_or_path)[0]
    shape = Shape.of(config)
    rates, measured = (ASSUMED, set()) if args.measured is None else read_rates(args.measured)
    if args.measured is not None and not measured:
        print(f"--measured {args.measured} has no rates: all that follows are guesses")
    work = read_work(settings, shape, args)
    hardware = HARDWARE[args.hardware]
    seconds = step_seconds(work, hardware, rates)
    whole, gpus = sum(seconds.values()), args.gpus + (args.server_gpus or 0)
    origin = {
        name: "measured" if follows <= measured else "partly" if follows & measured else "assumed"
        for name, follows in FOLLOWS.items()
        if name in seconds
    }
    rows = [[name, f"{value:.2f}", f"{value / whole:.0%}", origin[name]] for name, value in seconds.items()]
    print_table(["phase", "s", "share", "rates"], [*rows, ["step", f"{whole:.1f}", "", ""]])
    used, together = model_flops_utilization(work, hardware, whole, gpus), work.rows_together(hardware)
    print(
        f"{gpus} x {args.hardware}, {work.prompts} prompts a rank of {work.prompt_tokens} tokens, "
        f"{work.group} completions of {work.completion_tokens} tokens, the longest {work.longest}, {together} of {work.rows} "
        f"decoded together: {used:.1%} of the hardware"
    )
    planned = plan(settings, config, args.gpus, hardware.gibibytes)
    gibibytes = {part: sum(parts.values()) for part, parts in planned.items()}
    for part, needed in gibibytes.items():
        if needed > hardware.gibibytes:
            print(f"It doesn't fit: {part}, {needed:.1f} of {hardware.gibibytes:g} GiB (python -m taro.run.memory_plan)")
    result = {"seconds": seconds, "step": whole, "utilization": used, "origin": origin}
    result |= {"together": together, "gibibytes": gibibytes}
    if args.json is not None:
        write_json(args.json, result)
    return result


if __name__ == "__main__":
    with clean_exit():
        main()
