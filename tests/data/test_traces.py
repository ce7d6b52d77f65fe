import pytest

from taro.data.samples import Sample
from taro.data.traces import TraceError, check_traces, traces_of


def sample(number, **extra):
    return Sample(f"s{number}", "v.mp4", "query", ((0.0, 1.0),), 2.0, extra=extra)


def test_samples_without_traces_are_all_named():
    good = sample(0, traces=["one", "two"])
    check_traces([good], "f.jsonl")
    assert traces_of(good) == ("one", "two")
    bad = [sample(1), sample(2, traces=[]), sample(3, traces="one"), sample(4, traces=["one", " "]), sample(5, traces=[1])]
    with pytest.raises(TraceError) as caught:
        check_traces([good, *bad], "f.jsonl")
    head, *lines, advice = str(caught.value).splitlines()
    assert head == "data.train_file = f.jsonl: 5 of 6 samples have no traces for stage = sft:"
    assert [line[2:4] for line in lines] == ["s1", "s2", "s3", "s4", "s5"] and 'traces: got "one"; allowed' in lines[2]
    assert "python -m taro.prepare.traces" in advice
