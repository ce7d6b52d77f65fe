import json

import pytest

from taro.data.samples import Sample, load_samples
from taro.tasks import Answer


@pytest.fixture
def asked():
    """Makes a sample of a task; keys of its row that are no field are its `extra`."""

    def make(task, spans=((2.0, 6.0),), query="a dog runs", captions=(), **extra):
        spans = tuple(tuple(map(float, span)) for span in spans)
        return Sample("one", "v.mp4", query, spans, 16.0, captions=captions, task=task, extra=extra)

    return make


@pytest.fixture
def loaded(tmp_path):
    """Reads the sample of a row from a file."""

    def load(**row):
        path = tmp_path / "rows.jsonl"
        common = {"id": "a", "video": "a.mp4", "query": "a dog runs", "spans": [[1, 2], [4, 6]], "duration": 16}
        row = {name: value for name, value in {**common, **row}.items() if value is not None}
        path.write_text(json.dumps(row) + "\n")
        [sample] = load_samples(path)
        return sample

    return load


@pytest.fixture
def said():
    """Makes an answer of spans, or of none that can be read."""
    return lambda spans, choice=None: Answer(None if spans is None else tuple(map(tuple, spans)), choice)
