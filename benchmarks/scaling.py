"""How the cost of a step grows with the group and with the prompt, the plain way and ours:

    python benchmarks/scaling.py --output docs/cost

prints the table, and writes it as `.md` beside a plot (`.png`). C = 96 tokens a completion, the tiny model of
`benchmarks/step.py`. The dashed lines are proportional to the tokens: P + G C of ours, G (P + C) of the plain way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import step
import torch

GROUPS, PROMPT = (4, 8, 16, 32), 2048
PROMPTS, GROUP = (512, 1024, 2048, 4096, 8192), 8
PASS = ("policy forward", "backward")


def measure_point(group: int, prompt: int, repeats: int) -> dict:
    """One setting: seconds and tokens of forward and backward, of the whole step, and peak memory, for both ways."""
    # The plain way takes two sequences at a time: with all of them its activations alone would need more than 20 GiB.
    arguments = step.parser().parse_args([f"--group={group}", f"--prompt={prompt}", "--rows=2"])
    bench = step.build(arguments)
    result = step.measure(bench, repeats, warm_up=False)
    point = {"G": group, "P": len(bench.prompt.input_ids), "ratios": step.compare(result)}
    for way in ("plain", "ours"):
        phases = result[way]["phases"]
        point[way] = {
            "pass": sum(phases[name]["seconds"] for name in PASS),
            "tokens": phases["backward"]["tokens"],
            "step": result[way]["seconds"],
            "peak": max(phases[name]["peak_gib"] for name in PASS),
        }
    print(row(point), flush=True)
    return point


def row(point: dict) -> str:
    plain, ours, ratios = point["plain"], point["ours"], point["ratios"]
    cells = [point["G"], f"{point['P']:,}"]
    for key, form, name in (("tokens", ",", None), ("pass", ".2f", "policy forward + backward"), ("step", ".1f", "whole step")):
        cells += [f"{way[key]:{form}}" for way in (plain, ours)]
        if name is not None:
            cells.append(f"{ratios[name]['ratio']:.1f}x ({ratios[name]['predicted']:.1f}x)")
    cells += [f"{way['peak']:.2f}" for way in (plain, ours)]
    return "| " + " | ".join(map(str, cells)) + " |"


COLUMNS = ("G", "P", "plain tokens", "our tokens", "plain pass, s", "our pass, s", "ratio", "plain step, s", "our step, s",
           "ratio", "plain GiB", "our GiB")  # fmt: skip
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def plot(sweeps: dict[str, list[dict]], path: Path) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), constrained_layout=True)
    rows = (("pass", "forward + backward, seconds"), ("peak", "peak memory of the pass, GiB"))
    for column, (name, points) in enumerate(sweeps.items()):
        for axis, (key, label) in zip(axes[:, column], rows, strict=True):
            at = [point[name] for point in points]
            for way, colour in (("plain", "tab:red"), ("ours", "tab:blue")):
                axis.plot(at, [point[way][key] for point in points], "o-", color=colour, label=way)
                if key == "pass":
                    slope = points[0][way]["pass"] / points[0][way]["tokens"]
                    axis.plot(at, [slope * point[way]["tokens"] for point in points], "--", color=colour, alpha=0.5)
            axis.set(xscale="log", xticks=at, xticklabels=[f"{x:,}" for x in at], ylabel=label, ylim=(0, None))
            axis.minorticks_off()
            fixed = f"P = {points[0]['P']:,}" if name == "G" else f"G = {points[0]['G']}"
            axis.set_xlabel(f"{'completions G' if name == 'G' else 'prompt tokens P'}  ({fixed}, C = 96)")
            axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=None, help="write OUTPUT.md and OUTPUT.png")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    print(HEADER)
    measure_point(4, 512, 1)  # warms up
    print("(warm-up above)")
    sweeps = {
        "G": [measure_point(group, PROMPT, arguments.repeats) for group in GROUPS],
        "P": [measure_point(GROUP, prompt, arguments.repeats) for prompt in PROMPTS],
    }
    if arguments.output is not None:
        threads = torch.get_num_threads()
        lines = [
            "# Cost of a step over G and P",
            "",
            f"`python benchmarks/scaling.py --output docs/cost`: torch {torch.__version__}, {threads} CPU threads, 6.8 M",
            "parameters, float32, C = 96, the plain way with two sequences in a pass. `pass` is the policy's forward and",
            "backward, GiB its peak memory; in brackets what counting tokens predicts.",
            "",
            "![Cost over G and P](cost.png)",
            "",
            HEADER,
            *(row(point) for points in sweeps.values() for point in points),
        ]
        arguments.output.with_suffix(".md").write_text("\n".join(lines) + "\n")
        plot(sweeps, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
