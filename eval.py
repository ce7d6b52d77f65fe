"""Evaluate a model on a benchmark:

    python eval.py --dataset Synthetic --model outputs/tiny/hf
    python eval.py --dataset Charades --model Qwen/Qwen2.5-VL-7B-Instruct --annotations charades.jsonl --video_root videos
    python eval.py --help
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import auto_cli

from taro.data.samples import SampleError
from taro.evaluation.evaluate import Evaluation, evaluate, print_evaluation
from taro.evaluation.predictions import EvaluationError
from taro.models.families import ModelError
from taro.rl.rollout import EngineError, SeamError


def main(arguments: Sequence[str] | None = None) -> Evaluation:
    return auto_cli(evaluate, args=arguments, as_positional=False)


if __name__ == "__main__":
    try:
        print_evaluation(main())
    except (EvaluationError, SampleError, ModelError, EngineError, SeamError) as error:
        sys.exit(f"error: {error}")
