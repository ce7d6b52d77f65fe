"""Is it right on this GPU, and is it fast? In about 10 minutes:

    python benchmarks/gpu.py [--shapes 3b 7b] [--json gpu.json]        (make gpu-check)
    python benchmarks/gpu.py --device cpu --shapes tiny                every line of it, at a size that a CPU can do

First each fast way is compared with the plain one, on a model with four layers of Qwen2.5-VL-3B's width; then whole models with
random weights of real sizes are timed, on groups that never have the same lengths twice. What raises an exception is a row that
says so, and the others go on. The exit status is 1 where a number is wrong or a check failed, 2 where all is right but slower
than a GPU should be or could not be timed, else 0; the file has it as `status`, null until the end.

`benchmarks/cost_model.py --measured gpu.json` turns the figures into the seconds of a step on any number of GPUs, where it has
this one's data sheet.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from cost_model import HARDWARE
from gpu_correct import CHECKS, Check, Subject
from gpu_speed import MEASURES, Job, Speed, copy_terabytes, product_teraflops, read_rates
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


Row = TypeVar("Row", Check, Speed)


def found_by(part: Callable[[Any], Iterator[Row]], subject: Subject | Job, row: type[Row]) -> Iterator[Row]:
    """The rows of one part. Where it raises, one more says so, standard error has the traceback, and others can go on."""
    try:
        yield from part(subject)
        return
    except Exception as error:
        traceback.print_exception(error)
        message = str(error).partition("\n")[0]
        failure = row(part.__name__.replace("_", " "), None, remark=f"{type(error).__name__}: {message}", failed=True)
    subject.tidy()
    yield failure


def run_checks(subject: Subject) -> list[Check]:
    """All of them, each printed as it comes."""
    found = []
    for check in CHECKS:
        for one in found_by(check, subject, Check):
            if one.value is None:
                verdict, said = ("FAILED", one.remark) if one.failed else ("-----", f"not seen: {one.remark}")
            else:
                verdict, said = "WRONG" if one.wrong else "right", f"{one.value:.2e}, at most {one.limit:g}"
            print(f"{verdict}  {one.name}: {said}", flush=True)
            found.append(one)
    return found


def print_speeds(size: str, speeds: Sequence[Speed], judged: bool) -> None:
    rows = []
    for one in speeds:
        bounds = [one.describe(bound) for bound in (one.good, one.best)]
        if one.value is None:
            seen, verdict = one.remark if one.failed else f"not seen: {one.remark}", "FAILED" if one.failed else ""
        else:
            seen, verdict = f"{one.value:.3g} {one.unit}".strip(), one.verdict if judged else ""
        rows.append([one.name, seen, *bounds, verdict])
    print_table([size, "seen", "good", "best", ""], rows)


def save(result: dict[str, Any], path: Path | None) -> None:
    """What there is so far, where a file is asked for."""
    if path is not None:
        write_json(path, result)


def time_shapes(args: argparse.Namespace, kind: str, ceiling: float, result: dict[str, Any]) -> dict[str, list[Speed]]:
    """The figures of each model. The result gets them, and the rates of the largest, and is saved after each."""
    about, found, largest = result["about"], {}, 0.0
    sheet = find_hardware(about["device"])
    if sheet is None:
        result["rates_are_of"] = f"nothing: the data sheets are of {', '.join(HARDWARE)}, and this is {about['device']}"
    for size in args.shapes:
        job = Job(size, args.device, DTYPES[kind], ceiling=ceiling, **SIZES[kind])
        found[size] = [one for measure in MEASURES for one in found_by(measure, job, Speed)]
        print_speeds(size, found[size], judged=kind == "cuda")
        result["speeds"][size] = [asdict(one) for one in found[size]] + [{"seconds": job.seconds}]
        if sheet is not None and job.flops.get("products", 0.0) > largest:
            largest = job.flops["products"]
            result["rates"] = read_rates(job, HARDWARE[sheet], about["copy_terabytes_a_second"])
            result["rates_are_of"] = f"{size}, shares of the data sheet of {sheet}"
        save(result, args.json)
    print(f"rates for benchmarks/cost_model.py: {result['rates_are_of']}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["3b", "7b"], help="models that are timed")
    parser.add_argument("--only", choices=("correct", "speed"), default=None)
    parser.add_argument("--json", type=Path, default=None, help="write all figures to this file, too")
    args = parser.parse_args(arguments)
    kind = take_device(args.device)
    leave_out_cudnn()  # as training has it
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the latter: of the tower's first layer
    ceiling = product_teraflops(args.device, DTYPES[kind], PRODUCT[kind])
    about = describe_device(args.device, ceiling, copy_terabytes(args.device, COPY[kind]))
    print(", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in about.items()))
    result: dict[str, Any] = {"about": about, "speeds": {}, "rates": {}, "rates_are_of": "nothing", "status": None}
    checks = [] if args.only == "speed" else run_checks(Subject(device=args.device, **TESTED[kind]))
    result["checks"] = [asdict(one) for one in checks]
    save(result, args.json)
    timed = {} if args.only == "correct" else time_shapes(args, kind, ceiling, result)
    speeds = {f"{size}: {one.name}": one for size, found in timed.items() for one in found}
    wrong, failed = [one.name for one in checks if one.wrong], [one.name for one in checks if one.failed]
    untimed = [name for name, one in speeds.items() if one.failed]
    slow = [name for name, one in speeds.items() if kind == "cuda" and not one.reaches(one.good)]
    for what, names in (("wrong", wrong), ("failed", failed + untimed), ("slower than it should be", slow)):
        if names:
            print(f"{what}: {'; '.join(names)}")
    result["status"] = WRONG if wrong or failed else SLOW if slow or untimed else 0
    save(result, args.json)
    return result["status"]


if __name__ == "__main__":
    with clean_exit():
        sys.exit(main())
