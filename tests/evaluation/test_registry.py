import re
from pathlib import Path

import pytest

from taro.evaluation.predictions import EvaluationError
from taro.evaluation.registry import find_benchmark, load_benchmarks
from taro.evaluation.scorers import SCORERS

ROOT = Path(__file__).parents[2]
ENTRY = "annotations: a.jsonl\n  split: test\n  license: l\n  homepage: h\n  make: m\n"


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("Charades", "Charades"),
        ("charades-sta", "Charades"),
        ("CharadesSTA", "Charades"),
        ("activitynet_captions", "ActivityNet"),
        ("ACTIVITYNET", "ActivityNet"),
        ("QV-Highlights", "QVHighlights"),
        ("tvgbench", "TVGBench"),
        ("tacos", "TACoS"),
        ("ego4d_nlq", "Ego4D-NLQ"),
        ("Ego4DNLQ", "Ego4D-NLQ"),
        ("vue_tr_v2", "VUE-TR-V2"),
        ("omtg", "OMTG-Bench"),
        ("synthetic", "Synthetic"),
    ],
)
def test_names_are_found_in_any_spelling(asked, name):
    assert find_benchmark(asked, load_benchmarks()).name == name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(EvaluationError) as error:
        find_benchmark("Chars", load_benchmarks())
    text = str(error.value)
    assert text.startswith("--dataset Chars: unknown, allowed: Charades or Charades-STA, ActivityNet or ActivityNet-Captions, ")
    assert text.endswith(", Synthetic; --datasets FILE adds others") and all(one.name in text for one in load_benchmarks())


def test_every_benchmark_says_how_to_get_it():
    for benchmark in load_benchmarks():
        text = benchmark.how_to_get()
        assert benchmark.homepage in text and benchmark.license in text
        made = benchmark.annotations if benchmark.name != "Synthetic" else "data/synthetic"
        assert benchmark.make.startswith("python -m taro.") and benchmark.make.endswith(f"--output {made}")
        assert "/" not in benchmark.annotations[:1] and benchmark.annotations.endswith(f"{benchmark.split}.jsonl")


def test_the_guides_name_every_benchmark():
    evaluation, data = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("evaluation", "data"))
    for benchmark in load_benchmarks():
        assert re.search(rf"(?<![\w-]){re.escape(benchmark.name)}(?![\w-])", evaluation), benchmark.name
        source = re.search(r"--source (\w+)", benchmark.make)
        assert source is None or f"`{source[1]}`" in data, benchmark.make


def test_breakdowns_and_scorers():
    assert find_benchmark("TVGBench", load_benchmarks()).breakdowns == ("qsemtype", "dataset_name")
    scorers = {benchmark.name: benchmark.scorer for benchmark in load_benchmarks()}
    assert (scorers["QVHighlights"], scorers["VUE-TR-V2"], scorers["TVGBench"]) == ("qvhighlights", "vue_tr", None)


def test_all_faults_of_a_registry_are_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        f"One:\n  {ENTRY}  aliases: [O-ne, two]\n  extra: 1\nTwo:\n  split: 3\n  scorer: mine\n  breakdowns: kind\nThree: x\n"
    )
    with pytest.raises(EvaluationError) as error:
        load_benchmarks(path)
    head, one, two, three = str(error.value).splitlines()
    assert head == f"--datasets {path}: 3 of 3 rows can't be read:"
    assert one.startswith('- entry "One": extra: got 1; allowed: no such field; there are name, annotations, ')
    assert two.startswith('- entry "Two": annotations: got nothing (the field is missing); allowed: text; split: got 3; ')
    one_of = ", ".join(SCORERS)
    assert two.endswith(f'allowed: a list of names; scorer: got "mine"; allowed: one of {one_of}, or null')
    assert three == '- entry "Three": got "x"; allowed: an object with fields'


def test_the_key_is_the_name(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"One:\n  {ENTRY}  name: Two\n")
    assert [benchmark.name for benchmark in load_benchmarks(path)] == ["One"]


def test_names_are_used_once(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"One:\n  {ENTRY}  aliases: [O-ne, two]\nT-WO:\n  {ENTRY}")
    with pytest.raises(EvaluationError, match=r"names of more than one benchmark: two$"):
        load_benchmarks(path)


@pytest.mark.parametrize("content", [None, "", "- a", "a: [", "\x00"])
def test_what_is_no_registry(tmp_path, content):
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EvaluationError, match=r"--datasets .*own\.yaml") as error:
        load_benchmarks(path)
    assert "\n" not in str(error.value)
