"""Two ranks, each with a vLLM engine of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[2]


@pytest.mark.distributed
@pytest.mark.slow
def test_each_rank_samples_from_the_weights_of_each_step(arguments, tmp_path):
    extra = [
        "--model.engine=vllm",
        "--model.optimizer.learning_rate=3e-3",
        "--trainer.devices=2",
        "--trainer.max_steps=3",
        "--trainer.limit_val_batches=0",
        "--curriculum.warmup_epochs=0",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments, *extra],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    differences = [event.value for event in events.Scalars("sampling/sampling_logp_difference/max")]
    assert len(differences) == 3 and max(differences) < 5e-4
