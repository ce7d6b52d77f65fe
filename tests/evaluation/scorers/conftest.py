import pytest

from taro.data.samples import Sample
from taro.evaluation.predictions import MISSING_VIDEO, Prediction


@pytest.fixture
def handed_in():
    """Makes samples and predictions of pairs of true spans and an answer: spans, a text, or None where none was asked for."""

    def make(*pairs, task="multi_span", extra=None):
        samples, predictions = [], []
        for number, (truth, answer) in enumerate(pairs):
            about = extra[number] if extra else {}
            samples.append(Sample(str(number), "v.mp4", "a dog runs", tuple(truth), 100.0, task=task, extra=about))
            if answer is None:
                predictions.append(Prediction.failed(samples[-1], MISSING_VIDEO, "gone"))
                continue
            said = answer if isinstance(answer, str) else ", ".join(f"{a}s to {b}s" for a, b in answer) or "none"
            predictions.append(Prediction.answered(samples[-1], f"<answer>{said}</answer>", True, 0.0))
        return samples, predictions

    return make
