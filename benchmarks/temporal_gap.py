"""The temporal gap at the true boundaries against elsewhere, by token set and radius:

    python -m taro.synthetic --output data/worlds/exact --captions exact
    python benchmarks/temporal_gap.py --output docs/temporal_gap

prints the table, and writes it as `.md` beside a plot (`.png`). The model's reasoning has to name times: the tiny base's does
not, that of the model before its last stage, which is in assets/, does. What lies elsewhere is known from the captions, which
have to be exact. Intervals are 95 % bootstrap intervals over queries.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from gap_probe import TOKENS, GapPair, correct_groups, probe_gaps
from pages import write_table

from taro.data.dataset import GroundingDataset
from taro.data.samples import load_samples
from taro.models.prompt import PromptBuilder
from taro.models.qwen_vl import QwenVL
from taro.models.settings import GroundingSettings
from taro.rollout import NativeEngine

LEAST_VIDEOS = 10  # rows of fewer are left out


def measure(model: str, annotations: str, radii: list[float], limit: int | None) -> list[GapPair]:
    """Gaps of correct completions to the samples of a file."""
    settings = (GroundingSettings.load(model) or GroundingSettings()).for_evaluation()
    builder = PromptBuilder(model, settings.prompt, settings.max_prompt_tokens)
    policy = QwenVL.from_pretrained(model).eval()
    dataset = GroundingDataset(load_samples(annotations, limit=limit), builder, settings)
    engine, groups = NativeEngine(policy, builder.end_ids), []
    for start in range(0, len(dataset), 32):
        examples = [dataset[i] for i in range(start, min(start + 32, len(dataset)))]
        groups += correct_groups(policy, builder, engine, [e for e in examples if e.prompt is not None])
    print(f"{sum(len(g.texts) for g in groups)} correct completions of {len(groups)} queries", flush=True)
    return [pair for radius in radii for pair in probe_gaps(policy, groups, radius)]


def by_video(pairs: list[GapPair], radius: float, tokens: str) -> np.ndarray:
    """(queries, 2) mean gap at the boundaries and elsewhere of each sample."""
    samples: dict[str, list[tuple[float, float]]] = {}
    for pair in pairs:
        if (pair.radius, pair.tokens) == (radius, tokens):
            samples.setdefault(pair.sample, []).append((pair.boundary, pair.elsewhere))
    return np.array([np.mean(values, axis=0) for values in samples.values()])


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]))


def rows(pairs: list[GapPair], radii: list[float]) -> list[tuple]:
    """Radius, tokens, number of queries, mean gaps, their difference with its interval, share larger at the boundary."""
    result = []
    for radius in radii:
        for tokens in TOKENS:
            values = by_video(pairs, radius, tokens)
            if len(values) < LEAST_VIDEOS:
                continue
            difference = values[:, 0] - values[:, 1]
            share = (difference > 0).mean()
            result.append((radius, tokens, len(values), *values.mean(0), difference.mean(), *interval(difference), share))
    return result


def markdown(table: list[tuple]) -> str:
    lines = ["| radius, s | tokens | queries | gap at boundaries | gap elsewhere | difference [95 %] | larger at boundaries |"]
    lines.append("|---" * 7 + "|")
    for radius, tokens, count, near, away, difference, low, high, share in table:
        lines.append(
            f"| {radius:g} | {tokens} | {count} | {near:.3f} | {away:.3f} | {difference:+.3f} [{low:+.3f}, {high:+.3f}] "
            f"| {share:.0%} |"
        )
    return "\n".join(lines)


def plot(table: list[tuple], path: Path) -> None:
    figure, axes = plt.subplots(1, len(TOKENS), figsize=(11, 3.4))
    for axis, tokens in zip(axes, TOKENS, strict=True):
        part = [row for row in table if row[1] == tokens]
        radii = [row[0] for row in part]
        axis.plot(radii, [row[3] for row in part], "o-", color="#c0392b", label="at the true boundaries")
        axis.plot(radii, [row[4] for row in part], "o-", color="#7f8c8d", label="elsewhere")
        axis.set(title=tokens, xlabel="radius (s)", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("temporal gap (nats per token)")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="assets/tiny-qwen2.5-vl-start")
    parser.add_argument("--annotations", default="data/worlds/exact/test.jsonl")
    parser.add_argument("--radii", type=float, nargs="+", default=[0.75, 1.0, 1.25, 1.5, 2.0])
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--output", type=Path, default=None, help="path without suffix for the table and the plot")
    args = parser.parse_args()
    table = rows(measure(args.model, args.annotations, args.radii, args.limit), args.radii)
    text = markdown(table)
    print(text)
    if args.output is not None:
        page, image = args.output.with_suffix(".md"), args.output.with_suffix(".png")
        write_table(page, "Temporal gap", f"![gap by radius]({image.name})\n\n{text}")
        plot(table, image)


if __name__ == "__main__":
    main()
