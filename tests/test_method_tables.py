"""The tables of benchmarks/methods.py."""

import numpy as np
import pytest

from taro.errors import TaroError


@pytest.fixture(scope="module")
def tables(import_benchmark):
    return import_benchmark("method_tables")


@pytest.mark.slow
def test_intervals_are_over_seeds_and_queries(tables):
    rng = np.random.default_rng(1)
    held, shape = [], (5, 300, 1)
    for _ in range(40):
        scores = rng.normal(0, 0.1, (5, 1, 1)) + rng.normal(0, 1, (1, 300, 1)) + rng.normal(0, 1, shape)
        low, high = tables.interval(scores)[0]
        held.append(low <= 0 <= high)
    assert sum(held) / len(held) > 0.85
    low, high = tables.interval(np.zeros(shape) + rng.normal(0, 0.1, (5, 1, 1)))[0]
    assert high - low > 0.05  # seeds that differ are seen where queries don't
    low, high = tables.interval(np.zeros(shape) + rng.normal(0, 1, (1, 300, 1)))[0]
    assert high - low == pytest.approx(4 / 300**0.5, rel=0.15)


def test_an_interval_by_seeds_is_students(tables):
    assert tables.interval_by_seeds(np.array([1.0, 2.0, 3.0])) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)
    assert tables.interval_by_seeds(np.array([1.0, 2.0])) is None


def test_a_difference_is_paired_by_query_and_seed(tables):
    rng = np.random.default_rng(0)
    hits = rng.integers(0, 2, (3, 200)).astype(float)

    def results(name, values):
        scores = np.zeros((3, 200, len(tables.METRICS)))
        scores[..., tables.METRICS.index("R1@0.5")] = values
        ids = [str(number) for number in range(200)]
        runs = [{"name": f"{name}.{seed}", "scores": own.tolist()} for seed, own in enumerate(scores)]
        return [run | {"ids": list(ids), "curves": {}} for run in runs]

    found = {("b", "loose", "plain"): results("plain", hits), ("b", "loose", "new"): results("new", hits + 0.25)}
    plain, new = tables.table(found, "plain").splitlines()[2:]
    assert plain.endswith("|  |  |") and new.endswith("| +0.250 [+0.250, +0.250] | [+0.250, +0.250] |")
    for seed, one in enumerate(found["b", "loose", "new"]):
        one["curves"] = {"timing_s/step": [[0, 9.0], [1, 2.0 + seed], [2, 1.0]]}
        one["curves"]["frac_reward_zero_std"] = [[0, 0.0], [1, 0.0], [2, 0.375]]
    head, _, plain, new = tables.table(found, "plain").splitlines()
    assert "| timestamp_rate | groups without variance | s a step, median | R1@0.5 above `plain` | by seeds alone |" in head
    assert plain.endswith("|  |  |  |  |") and "| 0.125 [0.125, 0.125] | 3.000 [2.000, 4.000] | +0.250" in new
    base = results("base", hits)[:1]  # of which there is one result: each seed is compared with it
    base[0]["scores"] = np.zeros((200, len(tables.METRICS))).tolist()
    row = tables.table(found | {("b", "loose", tables.BEFORE): base}, "plain").splitlines()[-1]
    assert f"| {-hits.mean():+.3f} [" in row
    for one in found["b", "loose", "plain"]:
        one["curves"] = {"reward": [[0, 1.0]]}  # a result of before it was kept
    assert "s a step" not in tables.table(found, "plain")
    found["b", "loose", "new"][1]["ids"][0] = "another"
    with pytest.raises(TaroError, match=r"new.0: its seeds have other test queries"):
        tables.table(found, "plain")


def test_a_task_in_the_mixture_is_compared_with_itself_alone(tables):
    names = [f"{task}{number}" for number in range(3) for task in ("dense", "actions")]

    def results(ids, iou, count):
        scores = np.zeros((len(ids), len(tables.METRICS)))
        scores[:, tables.METRICS.index("mIoU")] = iou
        tasks = [name[:-1] for name in ids]
        own = {task: {"count_accuracy": count, "F1@0.5": None} for task in tasks}
        result = {"name": "run", "curves": {"loss": []}, "ids": ids, "scores": scores.tolist()}
        return [result | {"tasks": tasks, "task_metrics": own}] * 2

    dense = [name for name in names if name.startswith("dense")]
    found = {("b", "mixed", "m"): results(names, [0.5, 0.1] * 3, 0.25), ("b", "only_dense", "m"): results(dense, 0.25, 1.0)}
    rows = [row.strip("| ").split(" | ") for row in tables.task_table(found).splitlines()[2:]]
    few, all_right = "count_accuracy 0.250, F1@0.5 nan", "count_accuracy 1.000, F1@0.5 nan"
    assert rows == [
        ["b", "mixed", "m", "dense", "2", "0.500 [0.500, 0.500]", "+0.250 [+0.250, +0.250]", few],
        ["b", "mixed", "m", "actions", "2", "0.100 [0.100, 0.100]", "", few],
        ["b", "only_dense", "m", "dense", "2", "0.250 [0.250, 0.250]", "", all_right],
    ]
    found["b", "only_dense", "m"] = results(["dense0", "dense1", "dense7"], 0.25, 1.0)
    with pytest.raises(TaroError, match="run, run: other queries; make both again"):
        tables.task_table(found)
    assert tables.task_table({("b", "looser", "m"): found["b", "only_dense", "m"]}) == ""
