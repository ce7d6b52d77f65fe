"""Two processes on a CPU give the weights and the log of one process on the same prompts."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from checkpoint_content import read_all
from prepared_python import python
from shared_fixtures import save_lively
from tolerances import WEIGHTS
from transformers import AutoModelForImageTextToText

from taro.data.samples import load_samples, save_samples
from taro.models.checkpoint import find_fault, read_run
from taro.run.checkpoint_files import list_checkpoints
from taro.seeds import stable_seed

ROOT = Path(__file__).parents[2]
LAST = Path("checkpoints", "last.ckpt")
RUN = """
import json, sys
import lightning as L
import torch
from taro.run.cli import parse
from taro.models.weights import whole_weight
from taro.rl.group import shuffled_log_probs
from taro.models.packing import plan_even_packs
import taro.rl.balance
import taro.rl.module
import taro.rl.passes
import taro.rl.group_rewards
import taro.rl.rewards.parts
from taro.seeds import stable_seed

# A random model earns nothing: each text gets a reward of its own, and all answers to some of the samples are right.
taro.rl.rewards.parts.format_reward = lambda text: stable_seed(text) % 5 / 4


def half_right(completions):
    return torch.full((len(completions),), float(stable_seed(completions[0].sample.id) % 2))


taro.rl.group_rewards.compute_ious = half_right
shuffled, passes = [], []
taro.rl.module.shuffled_log_probs = lambda *given: shuffled.append(len(given[1])) or shuffled_log_probs(*given)
taro.rl.passes.plan_even_packs = lambda *given: passes.append(len(plan := plan_even_packs(*given))) or plan
moved, exchange = [], taro.rl.balance.exchange
taro.rl.balance.exchange = lambda *given: moved.append(sum(map(len, given[0]))) or exchange(*given)


class Metrics(L.Callback):
    rows = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


cli = parse(sys.argv[2:])
cli.trainer.callbacks.append(Metrics())
cli.fit()
weights = {name: whole_weight(value.detach()) for name, value in cli.model.policy.trained_weights().items()}
result = {"weights": weights, "metrics": Metrics.rows, "passes": passes, "shuffled": shuffled, "moved": moved}
torch.save(result, f"{sys.argv[1]}-{cli.trainer.global_rank}.pt")
"""

OF_RANKS = {"ranks/imbalance", "ranks/imbalance_before", "timing_s/exchange", "memory/exchange/cpu_gib"}


@dataclass(frozen=True)
class Trained:
    folder: Path  # of the run
    ranks: list[dict]  # what RUN has saved, of each rank


@pytest.fixture(scope="session")
def run(once, rank_environment):
    """RUN with the given arguments, once for all tests that ask for the same."""

    def make(arguments, ranks=1):
        arguments = [argument for argument in arguments if not argument.startswith("--output_dir")]

        def train(folder):
            (folder / "run.py").write_text(RUN)
            command = [python(), str(folder / "run.py"), str(folder / "rank"), *arguments]
            command += [f"--output_dir={folder}", f"--trainer.devices={ranks}", "--trainer.accelerator=cpu"]
            process = subprocess.run(command, env=rank_environment, capture_output=True, text=True, timeout=200)
            assert process.returncode == 0, process.stderr[-3000:]

        folder = once(f"ranks-{stable_seed(*arguments, ranks)}", train)
        return Trained(folder / "run", [torch.load(folder / f"rank-{rank}.pt") for rank in range(ranks)])

    return make


@pytest.fixture(scope="session")
def broken_file(once, synthetic):
    """The training samples, the first three without their videos."""

    def fill(folder):
        samples = load_samples(synthetic / "train.jsonl")
        rows = [replace(sample, video=str(folder / "gone.mp4")) if n < 3 else sample for n, sample in enumerate(samples)]
        save_samples(rows, folder / "train.jsonl")

    return once("broken", fill) / "train.jsonl"


def assert_close_but_for_roundings(found, expected):
    """AdamW makes a full step (1e-2) of a gradient that is nearly zero, so that here and there a rounding shows."""
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    apart = (found - expected).abs() > WEIGHTS
    assert int(apart.sum()) <= max(1, apart.numel() // 1000)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "strategy"),
    [*(("qwen2_5_vl", strategy) for strategy in ("ddp", "fsdp2", "fsdp2_sync_each_pack")), ("qwen3_5", "fsdp2")],
)
def test_two_ranks_are_as_one(arguments, run, broken_file, once, family, strategy):
    """Where they exchange groups, and where they don't and have different numbers of packs; where a rank's video is missing,
    and where only one of them has a group that can earn the temporal reward."""
    prompt, pack = (300, 700) if family == "qwen3_5" else (100, 400)  # times are text there, in longer prompts
    extra = [
        f"--model.name_or_path={once(family, lambda folder: save_lively(folder, family))}",
        f"--data.train_file={broken_file}",
        "--failure_limit.largest_share=1",
        "--data.prompts_per_step=6",
        "--trainer.max_steps=2",
        "--trainer.limit_val_batches=0",
        "--model.loss.updates=2",
        "--model.optimizer.learning_rate=1e-2",
        f"--data.grounding.max_prompt_tokens={prompt}",
        f"--model.pack_tokens={pack}",
        "--model.temporal_reward.tokens=response",
    ]
    (one,) = run([*arguments, *extra]).ranks
    balanced = strategy != "fsdp2_sync_each_pack"
    own = [
        f"--trainer.strategy={strategy}",
        f"--model.gradient_checkpointing={strategy == 'fsdp2'}",
        f"--model.rank_imbalance={0 if balanced else '.inf'}",
    ]
    two = run([*arguments, *extra, *own], ranks=2).ranks
    assert all(row["grad_norm"] > 0.1 for row in one["metrics"])
    assert one["metrics"][0]["data/failed"] == 3.0
    for rank in two:
        for name, value in one["weights"].items():
            assert_close_but_for_roundings(rank["weights"][name], value)
        for expected, got in zip(one["metrics"], rank["metrics"], strict=True):
            assert got.keys() == expected.keys() | OF_RANKS
            for name, value in expected.items():
                if not name.startswith(("timing_s/", "memory/", "tokens_per_second")):
                    assert got[name] == pytest.approx(value, abs=2e-4, rel=1e-3), name
        for row in rank["metrics"]:
            assert (row["ranks/imbalance"] < row["ranks/imbalance_before"]) == balanced
    if balanced:
        assert all(len(rank["moved"]) == len(rank["metrics"]) for rank in two)
        assert any(size > 10_000 for rank in two for size in rank["moved"])  # bytes
    else:
        assert two[0]["passes"] != two[1]["passes"] and two[0]["moved"] == []
    assert all(0 < row["taro/gap_skipped"] < 1 and row["rewards/temporal/mean"] > 0 for row in one["metrics"])
    first, second = (rank["shuffled"] for rank in two)
    assert sum(first) + sum(second) == sum(one["shuffled"]) > 0
    if strategy != "ddp":  # all ranks take part in a pass that one of them needs
        assert len(first) == len(second) and all(max(both) > 0 for both in zip(first, second, strict=True))


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.timeout(900)  # five runs, one after the other
def test_a_checkpoint_is_gone_on_with_by_other_ranks(arguments, run):
    """Weights, optimizer and the order of samples are after each step those of one process in one go."""
    extra = [
        "--trainer.limit_val_batches=0",
        "--model.optimizer.learning_rate=3e-3",
        "--model.temporal_reward=null",
        "--model.sampling.max_tokens=64",
    ]
    every = ["--checkpoint.every_n_steps=1", "--checkpoint.keep_last=4", "--trainer.max_steps=4"]
    whole = run([*arguments, *extra, *every]).folder / "checkpoints"
    ways, last = (("auto", 1), ("fsdp2", 2), ("ddp", 2), ("auto", 1)), []
    for step, (strategy, ranks) in enumerate(ways, start=1):
        own = [f"--trainer.strategy={strategy}", f"--trainer.max_steps={step}", *last]
        part = run([*arguments, *extra, *own], ranks)
        expected, found = (read_all(path)["weights"] for path in (list_checkpoints(whole)[step], part.folder / LAST))
        for weights in (found, *(rank["weights"] for rank in part.ranks)):
            assert weights.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(weights[name], value, atol=WEIGHTS, rtol=0, msg=f"{name} after step {step}")
        assert all(len(rank["metrics"]) == 1 for rank in part.ranks)
        last = [f"--ckpt_path={part.folder / LAST}"]


@pytest.mark.distributed
@pytest.mark.slow
def test_shards_are_written_while_training_goes_on(short, tmp_path, rank_environment):
    extra = [
        "--trainer.devices=2",
        "--trainer.accelerator=cpu",
        "--trainer.strategy=fsdp2",
        "--trainer.limit_val_batches=0",
        "--model.optimizer.weight_decay=10",  # a random model earns nothing: this moves its weights
        "--model.optimizer.learning_rate=1e-2",
        "--checkpoint.every_n_steps=1",
        "--checkpoint.keep_last=3",
        "--checkpoint.asynchronous=true",
        "--trainer.max_steps=3",
    ]
    done = subprocess.run(
        [python(), str(ROOT / "train.py"), *short, *extra],
        env=rank_environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    paths = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert list(paths) == [1, 2, 3] and all(find_fault(path) is None for path in paths.values())
    states = [read_all(path)["weights"] for path in paths.values()]
    name = "policy.model.model.language_model.layers.0.mlp.up_proj.weight"
    norms = [float(state[name].norm()) for state in states]
    assert norms[1] == pytest.approx(0.9 * norms[0], rel=1e-2) and norms[2] == pytest.approx(0.9 * norms[1], rel=1e-2)
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "hf").state_dict()
    assert torch.equal(exported[name.removeprefix("policy.model.")], states[-1][name])


FAIL = """
import sys
import torch
from taro.rl.module import GRPOModule
from taro.run import train

rollout = GRPOModule.rollout


def fail(self, batch, log):
    if self.trainer.global_step == 1 and self.trainer.global_rank == 1:
        raise RuntimeError("only here")
    return rollout(self, batch, log)


GRPOModule.rollout = fail
train.main(sys.argv[1:])
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_a_rank_that_fails_alone_ends_the_run(short, tmp_path, rank_environment):
    """It says why, saves what there is, and waits for nobody."""
    (tmp_path / "fail.py").write_text(FAIL)
    extra = ["--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.limit_val_batches=0"]
    done = subprocess.run(
        [python(), str(tmp_path / "fail.py"), *short, *extra],
        env=rank_environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode != 0 and "RuntimeError: only here" in done.stderr
    assert read_run(tmp_path / "run" / "checkpoints" / "last.ckpt")["step"] == 1
