"""What a model was trained on of what it was asked, for a report: known where the run that made it is there."""

from __future__ import annotations

from pathlib import Path

from taro.data.samples import SampleError, load_samples
from taro.jsonl import ResumeError, read_config
from taro.prepare.audit import compare
from taro.view.charts import table
from taro.view.evaluated import Evaluated
from taro.view.html import escape


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


def training_sections(run: Evaluated, name: str) -> list[str]:
    """A table of the videos and queries that were trained on, too; nothing where that isn't known."""
    file = find_training_file(run.model)
    if file is None or not all(sample.video for sample in run.samples):
        return []
    head = f"<h2>Trained on, too: {escape(name)}</h2>"
    try:
        found = compare(load_samples(file, bad_rows="drop"), run.samples, run.dataset, None)
    except SampleError as error:
        return [f'{head}<p class="warning">{escape(str(error))}</p>']
    rows = [
        ("videos, by where they are from", str(found.videos), str(len(found.shared))),
        ("queries, word for word", str(found.queries), str(found.same_queries)),
        ("these about a video that is trained on", "", str(found.same_on_shared)),
    ]
    caption = f"trained on {file}; python -m taro.prepare.audit --frames looks at the pictures, too"
    return [head + table(["", "asked", "trained on, too"], rows, caption)]
