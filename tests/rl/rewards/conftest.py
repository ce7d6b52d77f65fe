import pytest

from taro.data.samples import Sample
from taro.rl.rewards import Completion


@pytest.fixture
def complete():
    """Makes a completion of a text."""

    def make(text, truth=((2.0, 6.0),), task="grounding", duration=16.0, **more):
        columns = {name: more.pop(name) for name in list(more) if name not in Completion.__dataclass_fields__}
        spans = tuple(tuple(map(float, span)) for span in truth)
        sample = Sample(id="one", video="v.mp4", query="x", spans=spans, duration=duration, task=task, extra=columns)
        return Completion(text, sample, **more)

    return make
