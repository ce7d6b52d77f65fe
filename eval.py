"""Evaluate a model on a benchmark:

    python eval.py --dataset Synthetic --model outputs/tiny/hf
    python eval.py --dataset Charades --model Qwen/Qwen2.5-VL-7B-Instruct --annotations charades.jsonl --video_root videos
    python eval.py --help
"""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from taro.data.samples import SampleError
from taro.endings import endings
from taro.evaluation.evaluate import Evaluation, evaluate
from taro.evaluation.predictions import EvaluationError
from taro.evaluation.qvhighlights import SubmissionError
from taro.evaluation.report import print_report
from taro.evaluation.settings import EvaluationSettings
from taro.models.families import ModelError
from taro.resumable import ResumeError
from taro.rl.rollout import EngineError, SeamError


def main(arguments: Sequence[str] | None = None) -> Evaluation:
    return evaluate(parse(arguments))


def parse(arguments: Sequence[str] | None = None) -> EvaluationSettings:
    parser = ArgumentParser(description=__doc__.split(":")[0] + ".")
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    parser.add_class_arguments(EvaluationSettings, skip={"strict"})
    parser.add_argument("--strict", action="store_true", help="R1@m counts IoU > m, as Time-R1's evaluation does, and not >=")
    settings = parser.instantiate(parser.parse_args(arguments))
    return EvaluationSettings(**{name: value for name, value in vars(settings).items() if name != "config"})


if __name__ == "__main__":
    interrupted = "stopped by Ctrl-C; with --output the same command goes on with what is missing"
    errors = (EvaluationError, SampleError, ResumeError, ModelError, EngineError, SeamError, SubmissionError)
    with endings(*errors, interrupted=interrupted):
        evaluation = main()
    print_report(evaluation.report, evaluation.predictions, evaluation.asked)
