"""Methods side by side: every config, on every base and in every world, with every seed, as one table and one figure:

    python benchmarks/methods.py --configs time_r1 constructed_only taro --seeds 0 1 2 --jobs 2 --output docs/ablation

A config is a file that is laid over `--common`, or a name in configs/experiments/; bases are those of `python -m
taro.synthetic.tiny`, worlds those of WORLDS. Each run is a `train.py` of its own with one thread; what it leaves is one small
JSON file in `--results`, and a run whose file is there is not made again. One that was stopped goes on. With `--probes` the
models are asked about changed videos, too (`taro.evaluation.probes`). All other flags are passed on to train.py.

The table has means over seeds, the lowest and the highest; intervals are 95 % bootstrap intervals over seeds and queries, of
a row or of its paired difference from `--against`. In the world `mixed` all tasks are asked, in `only_TASK` one of them about
the same videos: a second table has each task by itself, and how far a model of all tasks is above one of that task that has
had as many steps. An epoch is longer in `mixed`: take methods without a warm-up in epochs. N queries, K metrics.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from method_parts import part_table
from method_tables import ALONE, BEFORE, DRAWN, FEW_SEEDS, MIXED, OF_RUNS, has_curves, plot, table, task_table
from pages import write_table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taro.command_line import Parser, at_least
from taro.errors import TaroError, clean_exit
from taro.evaluation.predictions import Prediction, load_predictions
from taro.evaluation.probes import PROBES
from taro.evaluation.report import score_matrix
from taro.evaluation.scores import METRICS
from taro.files import write_text
from taro.messages import list_lines
from taro.run.checks import list_problems
from taro.run.cli import SettingsAlone, parse
from taro.synthetic.recipe import check_base
from taro.synthetic.world import main as make_world

WORLDS = {name: (f"--captions={name}",) for name in ("exact", "loose", "looser")}
# One query a video: more videos, so that an epoch has as many.
WORLDS["lookalikes"] = ("--lookalikes", "--videos=640", "--validation_videos=120", "--test_videos=320")
TASKS = ("grounding", "multi_span", "dense", "grounded_qa", "actions")
_SIZES = ("--validation_videos=24", "--test_videos=96")
WORLDS[MIXED] = ("--tasks", *TASKS, *_SIZES)
WORLDS |= {f"{ALONE}{task}": ("--tasks", task, *_SIZES) for task in TASKS}
PROGRAM, MAX_TOKENS = "train.py", 160
LARGEST_SEED = 2**32 - 1
CURVES = ("vtg/R1@0.5", "vtg/mIoU", "vtg/timestamp_rate", "rollout/IoU", "rollout/timestamp_rate", "reward", "kl", "entropy")
CURVES += ("completions/mean_length", "taro/constructed_fraction", "taro/temporal_gap", *OF_RUNS)
EVALUATION = ("--batch_size=64", "--workers=0", "--device=cpu")


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
        return self.base.name, self.world, self.config.stem if self.config else BEFORE

    @property
    def name(self) -> str:
        return ".".join([*self.row, f"seed{self.seed}"]) if self.config else f"{self.base.name}.{self.world}.before"


@dataclass(frozen=True)
class Setup:
    data: Path  # a folder for each world
    runs: Path
    results: Path
    program: str  # that trains
    max_tokens: int  # of an answer in the test


def check_asked(args, extra: Sequence[str]) -> None:
    """Raises TaroError for flags that don't go together."""
    names = [Path(name).stem for name in args.configs]
    asked = {"--configs": names, "--seeds": args.seeds, "--bases": [base.name for base in args.bases], "--worlds": args.worlds}
    for flag, given in asked.items():
        if twice := [str(one) for one, times in Counter(given).items() if times > 1]:
            raise TaroError(f"{flag}: {', '.join(twice)} twice, and results have these names; give each once")
    if max(args.seeds) > LARGEST_SEED:
        raise TaroError(f"--seeds: {max(args.seeds)} is too large, at most {LARGEST_SEED}")
    if args.against not in [*names, BEFORE]:
        raise TaroError(f"--against: {args.against} is not among --configs ({', '.join(names)})")
    if args.steps is not None:
        if any(flag.startswith("--model.loss.updates") for flag in extra):
            raise TaroError("--steps: model.loss.updates must stand in a config, which it is read from")
        if any(flag.startswith("--trainer.max_steps") for flag in extra):
            raise TaroError("--steps, --trainer.max_steps: give one of them")


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
        steps = [f"--trainer.max_steps={args.steps * count_updates(Path(args.common), config)}"] if args.steps else []
        own = (f"--seed_everything={seed}", "--data.test_file=null", *steps, *extra)
        runs.append(Run(base, world, config, seed, (*train, *own)))
    for run in runs:
        if (path := args.results / f"{run.name}.json").exists():
            check_result(path, run, args.max_tokens)
    return runs


def check_result(path: Path, run: Run, max_tokens: int) -> None:
    """Raises TaroError where a result was made with other settings, or from other weights, than it would be now."""
    result = json.loads(path.read_text())
    wanted = {*run.train, f"--max_tokens={max_tokens}"}
    made = {*result["train"], f"--max_tokens={result.get('max_tokens', MAX_TOKENS)}"}
    if made != wanted:
        differing = " ".join(sorted(made ^ wanted))
        raise TaroError(f"{path}: was made with other settings ({differing}); set the same, or another --results")
    then, now = flatten(result["config"]), flatten(read_config(run))
    if changed := sorted(name for name in then | now if then.get(name) != now.get(name)):
        raise TaroError(f"{path}: {', '.join(changed)} of its configs changed since; remove the file to make it again")
    if result["base"] != fingerprint(run.base):
        raise TaroError(f"{path}: was made from other weights than {run.base} has; rename the base, or set another --results")


def read_config(run: Run) -> dict:
    """What its config files say, as JSON gives it back, each laid over those before; {} for a base. Sections that replace those
    of another file, as rewards do, are laid over them here, too: it is there to be compared."""
    if run.config is None:
        return {}
    names = ["configs/base.yaml", *(name for flag, name in itertools.pairwise(run.train) if flag == "--config")]
    names += [flag.partition("=")[2] for flag in run.train if flag.startswith("--config=")]
    merged: dict = {}
    for name in names:
        lay_over(merged, yaml.safe_load(Path(name).read_text()) or {})
    return json.loads(json.dumps(merged, default=str))


def lay_over(settings: dict, others: Mapping) -> None:
    """Put others' values in the place of those that are there."""
    for name, value in others.items():
        if isinstance(value, Mapping) and isinstance(settings.get(name), dict):
            lay_over(settings[name], value)
        else:
            settings[name] = dict(value) if isinstance(value, Mapping) else value


def flatten(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """Values by their names with dots."""
    found = {}
    for name, value in settings.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def fingerprint(base: Path) -> str:
    """Of its weights."""
    digest = hashlib.sha256()
    for path in sorted(base.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def count_updates(*configs: Path) -> int:
    """Of a step, by configs of which each is laid over those before."""
    found = 1
    for config in configs:
        model = yaml.safe_load(config.read_text()).get("model") or {}
        found = (model.get("loss") or {}).get("updates", found)
    return found


def place(run: Run, setup: Setup) -> list[str]:
    """Arguments of train.py: where a run goes, and goes on."""
    return ["--output_dir", str(setup.runs), "--name", run.name, "--ckpt_path=auto"]


def check_configs(runs: Sequence[Run], setup: Setup) -> None:
    """Raises TaroError that lists what can't work of any config, before one is run."""
    of_each = {f"{run.config} on {run.base}": [*run.train, *place(run, setup)] for run in runs}
    found = {name: list_problems(parse(train, SettingsAlone).config) for name, train in of_each.items()}
    os.environ.pop("PL_GLOBAL_SEED", None)  # which parsing sets, and every run would inherit
    if problems := [f"{name}: {problem}" for name, own in found.items() for problem in own]:
        raise TaroError(list_lines("some configs can't work, so that nothing was run:", problems))


def make_result(run: Run, setup: Setup, probes: Sequence[str]) -> dict:
    """Train and evaluate, as far as that is not done.

    Raises:
        TaroError: a command has failed, or a probe is asked for of a model that is not there any more.
    """
    path = setup.results / f"{run.name}.json"
    model = run.base if run.config is None else setup.runs / run.name / "hf"
    if not path.exists():
        commit, curves = None, {}
        if run.config is not None:
            own = place(run, setup)
            own += [f"--data.frame_cache.folder={setup.runs}/frames", f"--model.feature_cache.folder={setup.runs}/features"]
            call([setup.program, *run.train, *own], setup.runs / f"{run.name}.log")
            folder = setup.runs / run.name
            curves = read_curves(folder)
            commit = json.loads((folder / "environment.json").read_text())["git_commit"]
        predictions, scores, own = evaluate(run, model, setup)
        result = {"name": run.name, "train": run.train, "git_commit": commit, "metrics": METRICS}
        result |= {"curves": curves, "ids": [one.id for one in predictions], "scores": scores, "probes": {}}
        result |= {"tasks": [one.task for one in predictions], "task_metrics": own}
        result |= {"program": setup.program, "max_tokens": setup.max_tokens, "config": read_config(run)}
        result |= {"base": fingerprint(run.base)}
        setup.results.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result) + "\n")
        print(f"{run.name}: done", flush=True)
    result = json.loads(path.read_text())
    for probe in probes:
        if probe not in result["probes"]:
            if not model.exists():
                raise TaroError(f"{path}: has no {probe}, and its model {model} is gone; remove the file to make it again")
            predictions, result["probes"][probe], _ = evaluate(run, model, setup, probe)
            if [one.id for one in predictions] != result["ids"]:
                raise TaroError(f"{path}: its queries are not those of {setup.data / run.world}; remove one of the two")
            write_text(path, json.dumps(result) + "\n")
    return result


def make_results(runs: Sequence[Run], setup: Setup, probes: Sequence[str], jobs: int) -> list[dict]:
    """Of all runs, in their order.

    Raises:
        TaroError: some have failed; the others are made by then.
    """
    made, failures, pool = [], [], ThreadPoolExecutor(jobs)
    try:
        for future in [pool.submit(make_result, run, setup, probes) for run in runs]:
            try:
                made.append(future.result())
            except TaroError as error:
                failures.append(str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise TaroError(list_lines(f"{len(failures)} of {len(runs)} runs have failed, the others are made:", failures))
    return made


def is_missing(run: Run, results: Path, probes: Sequence[str]) -> bool:
    """Whether anything of a run is still to be evaluated."""
    path = results / f"{run.name}.json"
    return not path.exists() or not set(probes) <= json.loads(path.read_text())["probes"].keys()


def evaluate(
    run: Run, model: Path, setup: Setup, probe: str | None = None
) -> tuple[list[Prediction], list[list[float]], dict[str, dict[str, float]]]:
    """The test's answers (N), the metrics of each (N, K) and the own metrics of tasks, of videos as they are or as the probe
    shows them."""
    answers = setup.runs / ".".join([run.name, probe or "answers"])
    test = ["--annotations", str(setup.data / run.world / "test.jsonl"), "--output", str(answers)]
    test += [f"--max_tokens={setup.max_tokens}", *(["--probe", probe] if probe else [])]
    call(["eval.py", "--model", str(model), *test, *EVALUATION], setup.runs / f"{run.name}.log")
    predictions = load_predictions(answers)
    own = json.loads((answers / "metrics.json").read_text()).get("tasks", {})
    return predictions, score_matrix(predictions).round(4).tolist(), own


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


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--configs", nargs="+", default=["time_r1", "temporal_reward_only", "constructed_only", "taro"])
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2])
    parser.add_argument("--bases", type=Path, nargs="+", default=[Path("assets/tiny-qwen2.5-vl")])
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=["looser"])
    parser.add_argument("--probes", nargs="+", choices=PROBES, default=[])
    parser.add_argument("--common", default="configs/tiny.yaml", help="config that all configs are laid over")
    parser.add_argument("--steps", type=at_least(1), help="training steps of each run, whose updates trainer.max_steps counts")
    parser.add_argument("--program", default=PROGRAM, help="what trains those that are missing")
    parser.add_argument("--max_tokens", type=at_least(1), default=MAX_TOKENS, help="of an answer in the test")
    parser.add_argument("--against", help="method that the others are compared with; the first of --configs unless given")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="runs at a time, a core each")
    parser.add_argument("--data", type=Path, default=Path("data/worlds"), help="made there where missing")
    parser.add_argument("--runs", type=Path, default=Path("outputs/methods"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--output", type=Path, help="path without suffix of a page and a figure; the page's text stays")
    args, extra = parser.parse_known_args(arguments)
    args.against = args.against or Path(args.configs[0]).stem
    check_asked(args, extra)
    runs = list_runs(args, extra)
    for world in dict.fromkeys(run.world for run in runs if is_missing(run, args.results, args.probes)):
        if not (args.data / world / "test.jsonl").exists():
            make_world([f"--output={args.data / world}", *WORLDS[world], f"--workers={args.jobs}"])
    setup = Setup(args.data, args.runs, args.results, args.program, args.max_tokens)
    if args.program == PROGRAM:
        check_configs([run for run in runs if run.config is not None and is_missing(run, args.results, [])], setup)
    made = make_results(runs, setup, args.probes, args.jobs)
    results: dict[tuple, list[dict]] = {}
    for run, result in zip(runs, made, strict=True):
        results.setdefault(run.row, []).append(result)
    results = {row: results[row] for row in sorted(results, key=lambda row: row[:2])}
    parts = [table(results, args.against, args.probes), task_table(results)]
    parts.append(part_table(results, args.against, lookalikes=[name for name in WORLDS if "--lookalikes" in WORLDS[name]]))
    if any(has_curves(found) and len(found) < 3 for found in results.values()):
        parts.append(FEW_SEEDS)
    text = "\n\n".join(filter(None, parts))
    print(text)
    if args.output is not None:
        page, image = args.output.with_suffix(".md"), args.output.with_suffix(".png")
        plot(results, image)
        write_table(page, "Methods", f"![{', '.join(DRAWN.values())} over steps]({image.name})\n\n{text}")


if __name__ == "__main__":
    with clean_exit():
        main()
