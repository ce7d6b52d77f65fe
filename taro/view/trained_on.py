"""What a model was trained on of what it was asked, for a report: known where the run that made it is there."""

from __future__ import annotations

from taro.data.samples import SampleError, load_samples
from taro.evaluation.training_file import find_training_file
from taro.prepare.audit import compare
from taro.prepare.near_queries import NEAR
from taro.view.charts import table
from taro.view.evaluated import Evaluated
from taro.view.html import escape


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
        (f"other queries, {NEAR:.0%} of the words", "", str(len(found.near))),
        ("these about a video that is trained on", "", str(found.near_on_shared)),
    ]
    caption = f"trained on {file}; python -m taro.prepare.audit --frames looks at the pictures, too"
    return [head + table(["", "asked", "trained on, too"], rows, caption)]
