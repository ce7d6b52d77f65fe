"""Samples per second of an evaluation with the native engine and with vLLM, in turns, and whether they answer the same. In an
environment with vLLM, for instance the one of `make test-vllm`:

    .venv-vllm/bin/python benchmarks/eval.py --model assets/tiny-qwen2.5-vl

Seconds are those of a whole evaluation, the engine's start and the decoding of videos included.
"""

from __future__ import annotations

import argparse
import statistics
import time

from taro.evaluation.evaluate import Evaluation, evaluate
from taro.evaluation.settings import EvaluationSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/tiny-qwen2.5-vl")
    parser.add_argument("--dataset", default="Synthetic")
    parser.add_argument("--limit", type=int, default=128, help="samples of one evaluation")
    parser.add_argument("--batch_size", type=int, default=32, help="samples worked on at once")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"native": [], "vllm": []}
    found: dict[str, Evaluation] = {}
    for _ in range(arguments.turns):
        for engine, times in seconds.items():
            start = time.perf_counter()
            settings = EvaluationSettings(
                arguments.model, arguments.dataset, engine, limit=arguments.limit, max_tokens=160,
                batch_size=arguments.batch_size, workers=arguments.workers,
            )  # fmt: skip
            found[engine] = evaluate(settings)
            times.append(time.perf_counter() - start)
    pairs = list(zip(found["native"].predictions, found["vllm"].predictions, strict=True))
    count, same = len(pairs), sum(native.completion == vllm.completion for native, vllm in pairs)
    print(f"{count} samples, {same} with the same completion")
    for engine, times in seconds.items():
        median, metrics = statistics.median(times), found[engine].metrics
        print(f"{engine:<8}{median:8.2f} s{count / median:8.1f} samples/s   R1@0.5 {metrics['R1@0.5']:.3f}")


if __name__ == "__main__":
    main()
