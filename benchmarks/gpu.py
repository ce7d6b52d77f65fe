"""Is it right on this GPU, and is it fast? In 8 minutes:

    python benchmarks/gpu.py [--shapes 3b 7b] [--json gpu.json]        (make gpu-check)
    python benchmarks/gpu.py --device cpu --shapes tiny                every line of it, at a size that a CPU can do

First each fast way is compared with the plain one, on a model with four layers of Qwen2.5-VL-3B's width; then whole models with
random weights of real sizes are timed, on groups that never have the same lengths twice. The exit status is 1 where a number is
wrong, 2 where all is right but slower than a GPU should be, else 0. `benchmarks/cost_model.py --measured gpu.json` turns the
figures into the seconds of a step on any number of GPUs, where it knows this one's data sheet.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from cost_model import HARDWARE
from gpu_correct import CHECKS, Check, Subject
from gpu_speed import Job, Speed, copy_terabytes, measure, product_teraflops, read_rates
from workload import SHAPES

from taro.command_line import Parser
from taro.errors import TaroError, clean_exit
from taro.files import write_json
from taro.messages import print_table
from taro.models.attention import leave_out_cudnn

WRONG, SLOW = 1, 2
DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}
PRODUCT = {"cuda": 8192, "cpu": 256}  # rows of the matrices
COPY = {"cuda": 2**30, "cpu": 2**20}  # bytes
TESTED = {
    "cuda": {"size": "3b_4_layers", "prompt_tokens": 600, "frames": 32},
    "cpu": {"size": "tiny", "prompt_tokens": 120, "frames": 8},
}
SIZES = {  # what is timed: P, frames, G, C in the mean, repeats
    "cuda": {"prompt_tokens": 4000, "frames": 120, "group": 8, "mean": 300, "repeats": 10},
    "cpu": {"prompt_tokens": 120, "frames": 8, "group": 3, "mean": 8, "repeats": 2},
}


def take_device(name: str) -> str:
    """Its kind. A GPU is the current one from here on, which is where meshes and what names no device go.

    Raises:
        TaroError: there is none of that name.
    """
    kind, _, number = name.partition(":")
    if kind not in SIZES or (number and not (kind == "cuda" and number.isdecimal())):
        raise TaroError(f"--device {name}: must be cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise TaroError(f"--device {name}: PyTorch sees no GPU; --device cpu --shapes tiny tries every line on a CPU")
    if number:
        if int(number) >= torch.cuda.device_count():
            raise TaroError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPUs, the first of which is cuda:0")
        torch.cuda.set_device(int(number))
    return kind


def describe_device(device: str, ceiling: float, bandwidth: float) -> dict[str, Any]:
    cuda = device.startswith("cuda")
    about = {"torch": torch.__version__, "transformers": transformers.__version__, "date": time.strftime("%Y-%m-%d")}
    about["device"] = torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    about |= {"products_teraflops": ceiling, "copy_terabytes_a_second": bandwidth}
    if cuda:
        about |= {"cuda": torch.version.cuda, "cudnn_attention": torch.backends.cuda.cudnn_sdp_enabled()}
    return about


def find_hardware(name: str) -> str | None:
    """The data sheet of a device's name, where there is one."""
    plain = name.lower().replace(" ", "")
    return next((known for known in HARDWARE if known in plain), None)


def run_checks(subject: Subject) -> list[Check]:
    """All of them, each printed as it comes."""
    found = []
    for check in CHECKS:
        for one in check(subject):
            said = f"not seen: {one.remark}" if one.value is None else f"{one.value:.2e}, at most {one.limit:g}"
            print(f"{'WRONG' if one.wrong else 'right' if one.value is not None else '-----'}  {one.name}: {said}", flush=True)
            found.append(one)
    return found


def print_speeds(size: str, speeds: Sequence[Speed], judged: bool) -> None:
    rows = []
    for one in speeds:
        bounds = [one.describe(bound) for bound in (one.good, one.best)]
        verdict = "best" if one.reaches(one.best) else "good" if one.reaches(one.good) else "SLOW"
        rows.append([one.name, f"{one.value:.3g} {one.unit}".strip(), *bounds, verdict if judged else ""])
    print_table([size, "seen", "good", "best", ""], rows)


def time_shapes(args: argparse.Namespace, kind: str, ceiling: float, result: dict[str, Any]) -> list[str]:
    """Adds the figures of each model, and the rates of the largest, to the result; returns what is slower than it should be."""
    about, slow, judged, largest = result["about"], [], kind == "cuda", 0.0
    sheet = find_hardware(about["device"])
    for size in args.shapes:
        job = Job(size, args.device, DTYPES[kind], ceiling=ceiling, **SIZES[kind])
        speeds = list(measure(job))
        print_speeds(size, speeds, judged)
        result["speeds"][size] = [asdict(one) for one in speeds] + [{"seconds": job.seconds}]
        if sheet is not None and job.flops["products"] > largest:
            largest = job.flops["products"]
            result["rates"] = read_rates(job, HARDWARE[sheet], about["copy_terabytes_a_second"])
            result["rates_are_of"] = f"{size}, shares of the data sheet of {sheet}"
        slow += [f"{size}: {one.name}" for one in speeds if judged and not one.reaches(one.good)]
        del job
        if judged:
            torch.cuda.empty_cache()
    if sheet is None:
        result["rates_are_of"] = f"nothing: the data sheets are of {', '.join(HARDWARE)}, and this is {about['device']}"
    print(f"rates for benchmarks/cost_model.py: {result['rates_are_of']}")
    return slow


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["3b", "7b"], help="models that are timed")
    parser.add_argument("--only", choices=("correct", "speed"), default=None)
    parser.add_argument("--json", type=Path, default=None, help="write all figures to this file, too")
    args = parser.parse_args(arguments)
    kind = take_device(args.device)
    leave_out_cudnn()  # as training has it
    torch.backends.cuda.matmul.allow_tf32 = False
    ceiling = product_teraflops(args.device, DTYPES[kind], PRODUCT[kind])
    about = describe_device(args.device, ceiling, copy_terabytes(args.device, COPY[kind]))
    print(", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in about.items()))
    result: dict[str, Any] = {"about": about, "checks": [], "speeds": {}, "rates": {}, "rates_are_of": "nothing"}
    checks = [] if args.only == "speed" else run_checks(Subject(device=args.device, **TESTED[kind]))
    result["checks"] = [asdict(one) for one in checks]
    slow = [] if args.only == "correct" else time_shapes(args, kind, ceiling, result)
    if args.json is not None:
        write_json(args.json, result)
    wrong = [one.name for one in checks if one.wrong]
    for what, names in (("wrong", wrong), ("slower than it should be", slow)):
        if names:
            print(f"{what}: {'; '.join(names)}")
    return WRONG if wrong else SLOW if slow else 0


if __name__ == "__main__":
    with clean_exit():
        sys.exit(main())
