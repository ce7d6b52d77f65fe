"""What takes how much of a GPU's memory in training, computed from a config without loading a model:

    python -m taro.run.memory_plan --config configs/qwen25_7b.yaml --gpus 8
    python -m taro.run.memory_plan --config configs/qwen25_7b.yaml --gpus 16 --gpu_gigabytes 40 model.loss.kl_coefficient=0

Activations are those of a largest pack, which has model.pack_tokens, or is the largest possible group where that has more: a
group is never divided. What is counted and what is not: taro/run/memory.py.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence

from jsonargparse import Namespace

from taro.command_line import Parser, at_least
from taro.errors import clean_exit
from taro.messages import print_table
from taro.models.families import load_config
from taro.run.cli import SettingsAlone, parse
from taro.run.memory import engine_problem, largest_group_tokens, plan


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="as for train.py; several are stacked")
    parser.add_argument("--gpus", type=at_least(1), default=8, help="of all nodes together")
    parser.add_argument("--gpu_gigabytes", type=float, default=80.0, help="memory of one")
    parser.add_argument("--shape", default=None, help="folder with a config.json, in place of model.name_or_path")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("overrides", nargs="*", help="settings, as model.pack_tokens=8192")
    args = parser.parse_args(arguments)
    if not 0 < args.gpu_gigabytes < math.inf:
        parser.error(f"--gpu_gigabytes {args.gpu_gigabytes:g}: must be above 0")
    own = [*(f"--config={file}" for file in args.config), *(f"--{override}" for override in args.overrides)]
    settings = parse(own, SettingsAlone).config
    name = args.shape or settings.model.name_or_path
    config = load_config(name)[0]
    result = plan(settings, config, args.gpus, args.gpu_gigabytes)
    columns, *rows = _rows(result, args.gpu_gigabytes)
    if args.markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)))
    else:
        print(f"{name}, {args.gpus} GPU{'s' * (args.gpus > 1)} of {args.gpu_gigabytes:.0f} GiB")
        print_table(columns, rows)
        print(_about_packs(settings))
        if problem := engine_problem(settings, config, args.gpu_gigabytes):
            print(problem)
    return result


def _about_packs(settings: Namespace) -> str:
    group, budget = largest_group_tokens(settings), settings.model.pack_tokens
    parts = "data.grounding.max_prompt_tokens + model.group_size * model.sampling.max_tokens"
    if group > budget:
        return f"The largest pack is the largest group, {group} tokens ({parts}): more than model.pack_tokens = {budget}."
    return f"The largest pack has model.pack_tokens = {budget} tokens; the largest group has {group} ({parts})."


def _rows(result: dict[str, dict[str, float]], available: float) -> Iterator[list[str]]:
    yield ["GiB on each GPU", *result]
    for part in {part: None for parts in result.values() for part in parts}:
        yield [part, *(f"{parts[part]:.1f}" if parts.get(part) else "" for parts in result.values())]
    yield ["together", *(f"{sum(parts.values()):.1f} of {available:.0f}" for parts in result.values())]


if __name__ == "__main__":
    with clean_exit():
        main()
