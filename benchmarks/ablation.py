"""The four rows of the ablation at equal rollouts, over several seeds, as a table:

    python benchmarks/ablation.py --seeds 0 1 2 --jobs 2 --output docs/ablation.md

Each run is a `train.py` of its own; runs that are already there are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROWS = {
    "time_r1": "free exploration, format + timestamp IoU",
    "temporal_reward_only": "+ temporal-sensitivity reward",
    "constructed_only": "constructed paths only",
    "taro": "constructed paths, then free, + temporal-sensitivity reward",
}
METRICS = ("R1@0.5", "mIoU", "R1@0.3", "R1@0.7", "format_rate", "timestamp_rate")


def run(row: str, seed: int, threads: int, extra: list[str], root: Path) -> dict:
    """Train one row with one seed; returns its summary."""
    folder = root / f"{row}_seed{seed}"
    summary = folder / "summary.json"
    if not summary.exists():
        configs = ["configs/tiny.yaml", f"configs/experiments/{row}.yaml"]
        command = [sys.executable, "train.py", *(part for config in configs for part in ("--config", config))]
        command += ["--name", folder.name, "--output_dir", str(root), "--seed_everything", str(seed), *extra]
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{folder.name}.log").open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)
        print(f"{folder.name}: done", flush=True)
    return json.loads(summary.read_text())


def table(results: dict[str, list[dict]]) -> str:
    """Mean over seeds and, in brackets, the lowest and the highest."""
    lines = ["| run | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    first = next(iter(results.values()))

    def line(name: str, summaries: list[dict], part: str) -> str:
        cells = []
        for metric in METRICS:
            values = [summary[part][metric] for summary in summaries]
            mean = statistics.mean(values)
            cells.append(f"{mean:.3f}" if part == "before" else f"{mean:.3f} [{min(values):.3f}, {max(values):.3f}]")
        return f"| {name} | " + " | ".join(cells) + " |"

    lines.append(line("before training", first[:1], "before"))
    for row, summaries in results.items():
        lines.append(line(f"`{row}`: {ROWS[row]}", summaries, "after"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--root", type=Path, default=Path("outputs/ablation"))
    parser.add_argument("--output", type=Path, default=None, help="markdown file; its text above the table is kept")
    args, extra = parser.parse_known_args()
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    jobs = [(row, seed) for seed in args.seeds for row in args.rows]
    with ThreadPoolExecutor(args.jobs) as pool:
        summaries = list(pool.map(lambda job: run(*job, threads, extra, args.root), jobs))
    results = {row: [s for (r, _), s in zip(jobs, summaries, strict=True) if r == row] for row in args.rows}
    text = table(results)
    print(text)
    if args.output is not None:
        old = args.output.read_text() if args.output.exists() else "# Ablation\n\n<!-- table -->\n"
        args.output.write_text(old.split("<!-- table -->")[0] + "<!-- table -->\n\n" + text + "\n")


if __name__ == "__main__":
    main()
