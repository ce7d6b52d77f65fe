"""What a model was trained on: known where the run that made it is there, or where it is named."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from taro.data.samples import Sample, SampleError, load_samples
from taro.jsonl import ResumeError, read_config
from taro.tasks.grounding import Grounding

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """Training samples that blind answers are fitted on: those of a file that ask for one span."""

    file: str
    samples: tuple[Sample, ...]


def find_training_file(model: str) -> Path | None:
    """Of the run whose exported folder (`hf`) the model is; None where there is no such run, or the file is not there."""
    folder = Path(model)
    if folder.name != "hf":
        return None
    try:
        data = read_config(folder.parent).get("data")
    except ResumeError:
        return None
    file = data.get("train_file") if isinstance(data, dict) else None
    return Path(file) if isinstance(file, str) and Path(file).is_file() else None


def load_fit(file: str | Path) -> Fit:
    """Without bad rows, which are logged.

    Raises:
        SampleError: the file can't be read, or no sample is left.
    """
    samples = tuple(sample for sample in load_samples(file, bad_rows="drop") if sample.task == Grounding.name)
    if not samples:
        raise SampleError(f"{file}: got no sample that asks for one span; --fit needs a samples file with one or more")
    return Fit(str(file), samples)


def find_fit(model: str, file: str | None = None) -> Fit | None:
    """Of a file that was fitted on before, or else of the model's training file; None, and logged, where it can't be used."""
    found = file if file is not None and Path(file).is_file() else find_training_file(model)
    try:
        return None if found is None else load_fit(found)
    except SampleError as error:
        logger.warning(f"blind answers are not fitted on training samples: {error}")
        return None
