"""Validation and test: greedy answers, counted."""

from __future__ import annotations

import lightning as L

from taro.data.examples import GroundingExample
from taro.evaluation.metrics import GroundingMetrics
from taro.prompts import parse_answer


class EvaluatedModule(L.LightningModule):
    """Lightning's hooks of validation (`vtg/...`) and test (`test/...`), for a module that can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.validation_metrics, self.test_metrics = GroundingMetrics(), GroundingMetrics()

    def answer(self, examples: list[GroundingExample]) -> list[str]:
        """One text for each example, all of which have a prompt."""
        raise NotImplementedError

    def evaluate_batch(self, batch: list[GroundingExample], metrics: GroundingMetrics) -> None:
        """Answer the batch and count it; what can't be answered counts as failed."""
        examples = [example for example in batch if example.prompt is not None]
        texts = self.answer(examples)
        metrics.update(
            [parse_answer(text) for text in texts],
            [example.sample.spans for example in examples],
            texts,
            failed=len(batch) - len(examples),
        )

    def log_metrics(self, metrics: GroundingMetrics, prefix: str) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{prefix}/{name}", value.float(), prog_bar=False, sync_dist=True)  # the same on all ranks already
        metrics.reset()

    def validation_step(self, batch: list[GroundingExample], batch_idx: int) -> None:
        self.evaluate_batch(batch, self.validation_metrics)

    def test_step(self, batch: list[GroundingExample], batch_idx: int) -> None:
        self.evaluate_batch(batch, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        self.log_metrics(self.validation_metrics, "vtg")

    def on_test_epoch_end(self) -> None:
        self.log_metrics(self.test_metrics, "test")
