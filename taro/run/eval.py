"""What `eval.py` and `taro-eval` do: a model on a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taro.command_line import parse_settings
from taro.errors import clean_exit
from taro.evaluation.blind import about_fit, print_blind
from taro.evaluation.evaluate import Evaluation, evaluate
from taro.evaluation.made_with import describe_asked
from taro.evaluation.protocols import print_protocols
from taro.evaluation.report import print_report
from taro.evaluation.settings import EvaluationSettings
from taro.rl.answer_gaps import measure_gaps
from taro.run.commands import EVAL
from taro.view.probes import show_probes


def main(arguments: Sequence[str] | None = None) -> Evaluation:
    return run(parse(arguments))


def run(settings: EvaluationSettings) -> Evaluation:
    """Raises as `evaluate` and `measure_gaps`."""
    evaluation = evaluate(settings)
    if settings.gap:
        measure_gaps(settings)
    return evaluation


def parse(arguments: Sequence[str] | None = None) -> EvaluationSettings:
    return parse_settings(EvaluationSettings, EVAL, arguments, switches=["strict", "zoom", "gap", "answer_only"])


def command() -> None:
    """`eval.py`, with errors in one line."""
    interrupted = "stopped by Ctrl-C; with --output the same command goes on with what is missing"
    with clean_exit(interrupted=interrupted):
        settings = parse()
        evaluation = run(settings)
    print_report(evaluation.report, evaluation.predictions, evaluation.asked)
    if evaluation.beside.blind:
        print("The same answers by every rule in use (taro/evaluation/protocols.py):")
        print_protocols(evaluation.beside.protocols)
        print(describe_asked(evaluation.configuration))
        print("And answers that never saw the video:")
        print_blind(evaluation.beside.blind)
        print(about_fit(evaluation.beside.fit))
    if settings.several and settings.shard is None:
        print("And what becomes of them when the question is asked otherwise:")
        show_probes(Path(settings.output), settings.strict)
    elif settings.several:
        print(f"when all shards are done: python -m taro.view.probes {settings.output}")
    print_next(settings, evaluation)


def print_next(settings: EvaluationSettings, evaluation: Evaluation) -> None:
    """Where the answers are, and what to do with them."""
    if settings.output is None:
        print("the answers are not kept: --output DIR writes them, and metrics.json")
    elif evaluation.report.samples == evaluation.asked:
        print(f"answers and metrics are in {settings.output}")
        print(f"next: python -m taro.evaluation.compare OTHER {settings.output}")
    else:
        print(f"the answers of this shard are in {settings.output}; the last shard writes the metrics of all there")


if __name__ == "__main__":
    command()
