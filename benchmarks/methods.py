"""Methods side by side: every config, on every base and in every world, with every seed, as one table and one figure:

    python benchmarks/methods.py --configs time_r1 constructed_only taro --seeds 0 1 2 --jobs 2 --output docs/ablation

A config is a file that is laid over `--common`, or a name in configs/experiments/; bases are those of `python -m
taro.synthetic.tiny`, worlds those of WORLDS. Each run is a `train.py` of its own with one thread; what it leaves is one small
JSON file in `--results`, and a run whose file is there is not made again. One that was stopped goes on. With `--probes` the
models are asked about changed videos, too (`taro.evaluation.probes`). All other flags are passed on to train.py.

The table has means over seeds, the lowest and the highest; intervals are 95 % bootstrap intervals over seeds and queries, of
a row or of its paired difference from `--against`. S seeds, N queries, K metrics.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taro.command_line import Parser
from taro.errors import TaroError, clean_exit
from taro.evaluation.bootstrap import RESAMPLES, SEED, percentile_intervals
from taro.evaluation.predictions import load_predictions
from taro.evaluation.probes import PROBES
from taro.evaluation.report import score_matrix
from taro.evaluation.scores import METRICS
from taro.files import write_text
from taro.synthetic.recipe import check_base
from taro.synthetic.world import main as make_world

WORLDS = {name: (f"--captions={name}",) for name in ("exact", "loose", "looser")}
# One query a video: more videos, so that an epoch has as many.
WORLDS["lookalikes"] = ("--lookalikes", "--videos=640", "--validation_videos=120", "--test_videos=320")
SHOWN = ("R1@0.5", "R1@0.7", "mIoU", "timestamp_rate")
CURVES = ("vtg/R1@0.5", "vtg/mIoU", "vtg/timestamp_rate", "rollout/IoU", "rollout/timestamp_rate", "reward", "kl", "entropy")
CURVES += ("completions/mean_length", "taro/constructed_fraction", "taro/temporal_gap")
DRAWN = {"vtg/R1@0.5": "R1@0.5", "vtg/timestamp_rate": "timestamp_rate"}  # curves, and the metric of the test set beside them
EVALUATION = ("--max_tokens=160", "--batch_size=64", "--workers=0", "--device=cpu")


@dataclass(frozen=True)
class Run:
    """One training run, or only the evaluation of a base, where there is no config."""

    base: Path
    world: str
    config: Path | None
    seed: int
    train: tuple[str, ...]  # arguments of train.py

    @property
    def row(self) -> tuple[str, str, str]:
        """All but the seed: base, world, method."""
        return self.base.name, self.world, self.config.stem if self.config else "before training"

    @property
    def name(self) -> str:
        return ".".join([*self.row, f"seed{self.seed}"]) if self.config else f"{self.base.name}.{self.world}.before"


@dataclass(frozen=True)
class Places:
    data: Path  # a folder for each world
    runs: Path
    results: Path


def list_runs(args, extra: Sequence[str]) -> list[Run]:
    """All that was asked for.

    Raises:
        TaroError: a config is not there, a base can't be trained by it, or results are of other settings.
    """
    configs = [path if (path := Path(name)).suffix else Path("configs/experiments", f"{name}.yaml") for name in args.configs]
    missing = [str(path) for path in [Path(args.common), *configs] if not path.is_file()]
    if missing:
        raise TaroError(f"--configs: there is no {', '.join(missing)}; name a file, or one of configs/experiments/")
    for base in args.bases:
        check_base(base)
    runs = [Run(base, world, None, 0, ()) for base, world in itertools.product(args.bases, args.worlds)]
    for seed, base, world, config in itertools.product(args.seeds, args.bases, args.worlds, configs):
        data = args.data / world
        files = [f"--data.{split}_file={data}/{split}.jsonl" for split in ("train", "validation")]
        train = ("--config", args.common, "--config", str(config), f"--model.name_or_path={base}", *files)
        runs.append(Run(base, world, config, seed, (*train, f"--seed_everything={seed}", "--data.test_file=null", *extra)))
    for run in runs:
        path = args.results / f"{run.name}.json"
        if path.exists() and (made := json.loads(path.read_text())["train"]) != list(run.train):
            differing = " ".join(sorted(set(made) ^ set(run.train)))
            raise TaroError(f"{path}: was made with other settings ({differing}); set the same, or another --results")
    return runs


def make_result(run: Run, places: Places, probes: Sequence[str]) -> dict:
    """Train and evaluate, as far as that is not done.

    Raises:
        TaroError: a command has failed, or a probe is asked for of a model that is not there any more.
    """
    path = places.results / f"{run.name}.json"
    model = run.base if run.config is None else places.runs / run.name / "hf"
    if not path.exists():
        commit, curves = None, {}
        if run.config is not None:
            own = ["--output_dir", str(places.runs), "--name", run.name, "--ckpt_path=auto"]
            own += [f"--data.frame_cache.folder={places.runs}/frames", f"--model.feature_cache.folder={places.runs}/features"]
            call(["train.py", *run.train, *own], places.runs / f"{run.name}.log")
            folder = places.runs / run.name
            curves = read_curves(folder)
            commit = json.loads((folder / "environment.json").read_text())["git_commit"]
        ids, scores = evaluate(run, model, places)
        result = {"name": run.name, "train": run.train, "git_commit": commit, "metrics": METRICS}
        result |= {"curves": curves, "ids": ids, "scores": scores, "probes": {}}
        places.results.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result) + "\n")
        print(f"{run.name}: done", flush=True)
    result = json.loads(path.read_text())
    for probe in probes:
        if probe not in result["probes"]:
            if not model.exists():
                raise TaroError(f"{path}: has no {probe}, and its model {model} is gone; remove the file to make it again")
            ids, result["probes"][probe] = evaluate(run, model, places, probe)
            if ids != result["ids"]:
                raise TaroError(f"{path}: its queries are not those of {places.data / run.world}; remove one of the two")
            write_text(path, json.dumps(result) + "\n")
    return result


def is_missing(run: Run, results: Path, probes: Sequence[str]) -> bool:
    """Whether anything of a run is still to be evaluated."""
    path = results / f"{run.name}.json"
    return not path.exists() or not set(probes) <= json.loads(path.read_text())["probes"].keys()


def evaluate(run: Run, model: Path, places: Places, probe: str | None = None) -> tuple[list[str], list[list[float]]]:
    """Ids of the test's queries (N), and the metrics of each (N, K), shown as they are or as the probe shows them."""
    answers = places.runs / ".".join([run.name, probe or "answers"])
    test = ["--annotations", str(places.data / run.world / "test.jsonl"), "--output", str(answers)]
    test += ["--probe", probe] if probe else []
    call(["eval.py", "--model", str(model), *test, *EVALUATION], places.runs / f"{run.name}.log")
    predictions = load_predictions(answers)
    return [one.id for one in predictions], score_matrix(predictions).round(4).tolist()


def call(command: list[str], log: Path) -> None:
    """
    Raises:
        TaroError: the command has failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode != 0:
        raise TaroError(f"{command[0]} has failed; the reason is at the end of {log}")


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(optimizer steps before, value) of what a run has logged."""
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = [name for name in CURVES if name in log.Tags()["scalars"]]
    return {name: [(one.step, round(one.value, 4)) for one in log.Scalars(name) if math.isfinite(one.value)] for name in names}


def interval(scores: np.ndarray) -> np.ndarray:
    """95 % interval (K, 2) of the mean of (S, N, K): seeds and queries are drawn with replacement."""
    rng, (seeds, queries, _) = np.random.default_rng(SEED), scores.shape
    draws = ((rng.integers(seeds, size=seeds), rng.integers(queries, size=queries)) for _ in range(RESAMPLES))
    return percentile_intervals(np.stack([scores[np.ix_(own, asked)].mean((0, 1)) for own, asked in draws]))


def table(results: dict[tuple, list[dict]], against: str, probes: Sequence[str] = ()) -> str:
    """Markdown, one row for each base, world and method."""
    heads = [*SHOWN, f"R1@0.5 above `{against}`", *(f"mIoU lost: {probe}" for probe in probes)]
    lines = ["| base | world | method | seeds | " + " | ".join(heads) + " |", "|---" * (len(heads) + 4) + "|"]
    for (base, world, method), found in results.items():
        scores = stack(found)  # (S, N, K)
        cells = []
        for metric in SHOWN:
            means = scores[..., METRICS.index(metric)].mean(1)
            spread = f" [{means.min():.3f}, {means.max():.3f}]" if len(found) > 1 else ""
            cells.append(f"{means.mean():.3f}{spread}")
        other = results.get((base, world, against), [])
        shared = min(len(found), len(other)) if method != against else 0
        difference, losses = "", []
        if shared:
            change = (scores[:shared] - stack(other[:shared]))[..., [METRICS.index("R1@0.5")]]
            low, high = interval(change)[0]
            difference = f"{change.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        for probe in probes:
            lost = (scores - stack(found, probe))[..., [METRICS.index("mIoU")]]
            low, high = interval(lost)[0]
            losses.append(f"{lost.mean():.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {' | '.join([base, world, method, str(len(found)), *cells, difference, *losses])} |")
    return "\n".join(lines)


def stack(results: Iterable[dict], probe: str | None = None) -> np.ndarray:
    """Scores (S, N, K) of runs that were tested on the same queries, under a probe or under none."""
    results = list(results)
    if any(result["ids"] != results[0]["ids"] for result in results):
        raise TaroError(f"{results[0]['name']}: its seeds have other test queries; make them again in another --results")
    return np.array([result["probes"][probe] if probe else result["scores"] for result in results])


def has_curves(results: list[dict]) -> bool:
    return bool(results[0]["curves"])


def plot(results: dict[tuple, list[dict]], path: Path) -> None:
    """Validation over steps, mean and range of the seeds; at the right end the test set with its interval."""
    groups = list(dict.fromkeys(row[:2] for row in results if has_curves(results[row])))
    figure, axes = plt.subplots(len(groups), len(DRAWN), figsize=(9, 2.8 * len(groups)), squeeze=False, sharex=True)
    for (group, line), (column, (curve, metric)) in itertools.product(
        zip(groups, axes, strict=True), enumerate(DRAWN.items())
    ):
        axis = line[column]
        methods = [row for row in results if row[:2] == group and has_curves(results[row])]
        for number, row in enumerate(methods):
            curves = [dict(map(tuple, result["curves"][curve])) for result in results[row]]
            steps = sorted(set.intersection(*map(set, curves)))
            values = np.array([[one[step] for step in steps] for one in curves])  # (S, steps)
            axis.plot(steps, values.mean(0), color=f"C{number}", label=row[2])
            axis.fill_between(steps, values.min(0), values.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
            scores = stack(results[row])[..., [METRICS.index(metric)]]
            (low, high), mean = interval(scores)[0], scores.mean()
            place = steps[-1] * (1.04 + 0.03 * number)
            axis.errorbar(place, mean, [[mean - low], [high - mean]], color=f"C{number}", marker="o", markersize=3, capsize=2)
        axis.set(title=f"{metric}: {group[0]}, {group[1]}", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("optimizer steps; points: the test set")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--configs", nargs="+", default=["time_r1", "temporal_reward_only", "constructed_only", "taro"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bases", type=Path, nargs="+", default=[Path("assets/tiny-qwen2.5-vl")])
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=["looser"])
    parser.add_argument("--probes", nargs="+", choices=PROBES, default=[])
    parser.add_argument("--common", default="configs/tiny.yaml", help="config that all configs are laid over")
    parser.add_argument("--against", default="time_r1", help="method that the others are compared with")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a core each")
    parser.add_argument("--data", type=Path, default=Path("data/worlds"), help="made there where missing")
    parser.add_argument("--runs", type=Path, default=Path("outputs/methods"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--output", type=Path, help="path without suffix of a page and a figure; the page's text stays")
    args, extra = parser.parse_known_args(arguments)
    runs = list_runs(args, extra)
    for world in dict.fromkeys(run.world for run in runs if is_missing(run, args.results, args.probes)):
        if not (args.data / world / "test.jsonl").exists():
            make_world([f"--output={args.data / world}", *WORLDS[world], f"--workers={args.jobs}"])
    places = Places(args.data, args.runs, args.results)
    with ThreadPoolExecutor(args.jobs) as pool:
        made = list(pool.map(lambda run: make_result(run, places, args.probes), runs))
    results: dict[tuple, list[dict]] = {}
    for run, result in zip(runs, made, strict=True):
        results.setdefault(run.row, []).append(result)
    results = {row: results[row] for row in sorted(results, key=lambda row: row[:2])}
    text = table(results, args.against, args.probes)
    print(text)
    if args.output is not None:
        page, image = args.output.with_suffix(".md"), args.output.with_suffix(".png")
        head = page.read_text().split("<!-- table -->")[0] if page.exists() else "# Methods\n\n"
        plot(results, image)
        write_text(page, f"{head}<!-- table -->\n\n![{', '.join(DRAWN.values())} over steps]({image.name})\n\n{text}\n")


if __name__ == "__main__":
    with clean_exit():
        main()
