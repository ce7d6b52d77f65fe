"""benchmarks/gpu.py on a CPU, at a size that takes seconds."""

import json
import math
import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from taro.errors import TaroError
from taro.models.packing import PackedGroup
from taro.models.sharding import shard

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import gpu
    import gpu_correct
    import workload

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(workload.SHAPES, "tiny", workload.ModelShape(64, 128, 2, 4, 2, 96, 32, 64, 2, 2))
        patched.setattr(gpu_correct, "RAGGED", ((9, 4, 1), (5, 3)))
        patched.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # kernels take a minute
        yield gpu
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_all_is_right_on_a_cpu(gpu, no_process_group, tmp_path, capsys):
    assert gpu.main(["--device=cpu", "--shapes", "tiny", f"--json={tmp_path}/gpu.json"]) == 0
    result, shown = json.loads((tmp_path / "gpu.json").read_text()), capsys.readouterr().out
    values = {check["name"]: check["value"] for check in result["checks"]}
    unseen = {name for name, value in values.items() if value is None}
    assert unseen >= {"flex: gradients", "host waits for the device in a pass"} and "not seen: needs a GPU" in shown
    same = ("packed = plain, log-probs", "shared_prefix = flex, 2 groups", "gradient checkpointing")
    for name in (*same, "compiled layers, 3 groups, gradients", "compiled layers, 3 groups, norm of gradients"):
        assert 0 <= values[name] < 1e-4
    assert values["AdamW of this device, through a checkpoint"] < 1e-6
    assert 0 <= values["FSDP2 on one rank, gradients"] < 1e-4 and values["adapters off = none"] == 0
    *speeds, about = result["speeds"]["tiny"]
    assert [one["name"] for one in speeds if one["value"] is None] == ["update, flex attention / plain"]
    assert len(speeds) == 11 and all(math.isfinite(one["value"]) for one in speeds if one["value"] is not None)
    parts = {"forward", "attention", "attention backward", "head", "tower"}
    assert about["seconds"].keys() == {*parts, "update", "optimizer", "update, compiled layers"}
    assert "WRONG" not in shown and "SLOW" not in shown  # nothing is asked of a CPU
    assert result["rates"] == {} and result["rates_are_of"].startswith("nothing: the data sheets are of a100, h100, h200")
    assert f"cost_model.py: {result['rates_are_of']}" in shown
    assert result["status"] == 0 and "FAILED" not in shown


def test_what_is_wrong_is_named(gpu, capsys, monkeypatch):
    """Completions that begin one position late."""
    right = PackedGroup.position_ids
    monkeypatch.setattr(PackedGroup, "position_ids", lambda self, at: right(self, at) + (self.segment_ids > 0))
    monkeypatch.setattr(gpu, "CHECKS", gpu.CHECKS[:1])
    assert gpu.main(["--device=cpu", "--only=correct"]) == gpu.WRONG
    shown = capsys.readouterr().out
    assert "WRONG  packed = plain, log-probs" in shown and "wrong: packed = plain, log-probs; packed = plain, grad" in shown


def test_a_check_that_raises_is_a_row_and_the_others_go_on(gpu, capsys, monkeypatch, tmp_path):
    import gpu_correct

    def breaks_half_way(subject):
        yield gpu.Check("the first half", 0.0, 1.0)
        seen.append(subject.policy.train())
        raise RuntimeError("no kernel\nfor this")

    def sees_a_new_model(subject):
        yield gpu.Check("in training", float(subject.policy.training), 0)

    seen, last = [], gpu_correct.optimizer_goes_on_from_a_checkpoint
    monkeypatch.setattr(gpu, "CHECKS", (breaks_half_way, sees_a_new_model, last))
    assert gpu.main(["--device=cpu", "--only=correct", f"--json={tmp_path}/gpu.json"]) == gpu.WRONG and seen
    result, shown = json.loads((tmp_path / "gpu.json").read_text()), capsys.readouterr()
    verdicts = [line.split()[0] for line in shown.out.splitlines()[1:5]]
    assert verdicts == ["right", "FAILED", "right", "right"]
    assert "FAILED  breaks half way: RuntimeError: no kernel" in shown.out and "failed: breaks half way" in shown.out
    assert "Traceback" in shown.err and "for this" in shown.err
    assert [one["failed"] for one in result["checks"]] == [False, True, False, False]
    assert result["status"] == gpu.WRONG


def test_ctrl_c_is_no_failed_check(gpu, monkeypatch):
    def interrupted(subject):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(gpu, "CHECKS", (interrupted,))
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["--device=cpu", "--only=correct"])


def test_a_model_too_large_is_a_row_and_the_others_go_on(gpu, capsys, monkeypatch, tmp_path):
    """The file has each model's figures before the next one starts."""
    path = tmp_path / "gpu.json"

    def measure(job):
        yield gpu.Speed("so far", 1.0)
        if job.size == "small":
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        before = json.loads(path.read_text())
        yield gpu.Speed("before", float(before["status"] is None and len(before["speeds"]["small"])))

    monkeypatch.setattr(gpu, "MEASURES", (measure,))
    assert gpu.main(["--device=cpu", "--only=speed", "--shapes", "small", "tiny", f"--json={path}"]) == gpu.SLOW
    result, shown = json.loads(path.read_text()), capsys.readouterr().out
    so_far, failure, _ = result["speeds"]["small"]
    assert so_far["value"] == 1 and failure["failed"] and failure["value"] is None
    assert failure["remark"] == "OutOfMemoryError: tried to allocate 9 GiB"
    assert [one["value"] for one in result["speeds"]["tiny"][:-1]] == [1.0, 3.0] and result["status"] == gpu.SLOW
    assert "FAILED" in shown and "OutOfMemoryError" in shown and "failed: small: measure" in shown


def test_a_measurement_that_raises_leaves_a_model_that_is_not_in_training(gpu, job, monkeypatch):
    import gpu_speed

    def run_out(policy, groups):
        if policy.training:
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(gpu_speed, "compute_log_probs", run_out)
    *_, failure = gpu.found_by(gpu_speed.measure_passes, job, gpu.Speed)
    assert failure.failed and failure.name == "measure passes" and not job.policy.training


def test_gradients_of_another_scale_are_wrong(gpu, no_process_group, monkeypatch):
    """As if eight ranks had added theirs up, and nothing had been divided."""
    import gpu_correct

    def shard_and_multiply(policy, mesh, dtype):
        shard(policy, mesh, dtype)
        for module in policy.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1 / 8)

    monkeypatch.setattr(gpu_correct, "shard", shard_and_multiply)
    checks = {one.name: one for one in gpu_correct.sharded_is_whole(gpu_correct.Subject("tiny", "cpu", 40, 4))}
    assert [name for name, one in checks.items() if one.wrong] == ["FSDP2 on one rank, norm of gradients"]
    assert checks["FSDP2 on one rank, norm of gradients"].value == pytest.approx(7)


def test_an_engine_that_rounds_more_is_wrong(gpu, monkeypatch):
    """With noise on top, in bfloat16 alone. What that model rotates positions by is in float32."""
    import gpu_correct

    class Rough(gpu_correct.NativeEngine):
        def generate(self, prompts, sampling):
            (group,) = super().generate(prompts, sampling)
            if self.policy.model.dtype == torch.float32:
                return [group]
            return [replace(group, log_probs=tuple(row + 0.1 * torch.randn(len(row)) for row in group.log_probs))]

    subject = gpu_correct.Subject("tiny", "cpu", 40, 4)
    assert not any(one.wrong for one in gpu_correct.engine_samples_from_the_policy(subject))
    monkeypatch.setattr(gpu_correct, "NativeEngine", Rough)
    wrong = [one.name for one in gpu_correct.engine_samples_from_the_policy(subject) if one.wrong]
    assert wrong == ["bfloat16: error of native engine / error of teacher forcing"]
    half = gpu_correct.in_bfloat16(subject.policy)
    assert {one.dtype for one in half.parameters()} == {torch.bfloat16} and subject.policy.model.dtype == torch.float32
    assert {one.dtype for one in half.buffers() if one.is_floating_point()} == {torch.float32}
    assert half.model.lm_head.weight is half.decoder.embed_tokens.weight


def test_no_gradients_are_wrong(gpu):
    from gpu_correct import compare_gradients

    assert all(one.wrong for one in compare_gradients("none", torch.zeros(3), torch.ones(3)))
    assert not any(one.wrong for one in compare_gradients("same", torch.ones(3), torch.ones(3)))


def test_bounds(gpu):
    import gpu_speed

    tower = gpu_speed.Speed("tower", 0.2, "s", 0.25, 0.1, more=False)
    assert tower.reaches(tower.good) and not tower.reaches(tower.best) and tower.reaches(None)
    assert tower.verdict == "good" and gpu_speed.Speed("engine", 70, "ms", 60, more=False).verdict == "SLOW"
    assert tower.describe(0.1) == "<= 0.1" and tower.describe(None) == ""
    assert not gpu_speed.Speed("forward", 0.4, "", 0.5).reaches(0.5)
    assert not gpu_speed.Speed("forward", math.nan, "", 0.5).reaches(0.5)


@pytest.fixture
def job(gpu):
    import gpu_speed

    return gpu_speed.Job("tiny", "cpu", torch.float32, ceiling=1.0, **gpu.SIZES["cpu"])


def test_other_ways_are_timed_beside_the_plain_one_over_the_same_packs(job, monkeypatch):
    import gpu_speed

    passes = []

    def forward(policy, groups):
        is_compiled = "forward" in vars(policy.decoder.layers[0])
        passes.append((policy.attention, is_compiled, tuple(len(group.packed) for group in groups)))
        return [SimpleNamespace(log_probs=torch.zeros(1, requires_grad=True))]

    def time(_job, run, _repeats=None):
        run()
        return [1.0 if passes[-1][:2] == ("shared_prefix", False) else 0.5]

    monkeypatch.setattr(gpu_speed, "compute_log_probs", forward)
    monkeypatch.setattr(gpu_speed.Job, "time", time)
    monkeypatch.setattr(gpu_speed, "require_compiler", lambda kind: None)
    assert len(job.pack(0)) == 2  # the model is on the CPU, whatever the job says
    job.device = "cuda"
    for measure, way in ((gpu_speed.measure_flex, ("flex", False)), (gpu_speed.measure_compiled, ("shared_prefix", True))):
        passes.clear()
        ratio, first = measure(job)
        half = len(passes) // 2
        assert {one[:2] for one in passes[:half]} == {("shared_prefix", False)} and {one[:2] for one in passes[half:]} == {way}
        assert [one[2] for one in passes[:half]] == [one[2] for one in passes[half:]]
        assert ratio.value == first.value == 0.5 and ratio.verdict == first.verdict == ""
    forward(job.policy, [])
    assert passes[-1][:2] == ("shared_prefix", False)


def test_a_way_that_raises_leaves_the_plain_one(gpu, job, monkeypatch):
    import gpu_speed

    def fails(policy, groups):
        if "forward" in vars(policy.decoder.layers[0]):
            raise RuntimeError("no kernel")
        return [SimpleNamespace(log_probs=torch.zeros(1, requires_grad=True))]

    monkeypatch.setattr(gpu_speed, "compute_log_probs", fails)
    monkeypatch.setattr(gpu_speed, "require_compiler", lambda kind: None)
    (failure,) = gpu.found_by(gpu_speed.measure_compiled, job, gpu.Speed)
    assert failure.failed and fails(job.policy, []) and not job.policy.training


def test_without_a_compiler_nothing_compiled_is_timed(job, monkeypatch):
    import gpu_speed

    def require(_kind):
        raise gpu_speed.CompilerError("no Triton")

    monkeypatch.setattr(gpu_speed, "require_compiler", require)
    (row,) = gpu_speed.measure_compiled(job)
    assert row.value is None and row.remark == "no Triton" and not row.failed


def test_a_peak_is_neither_far_above_its_plan_nor_below(job):
    from gpu_speed import compare_with_plan

    planned = 1 / compare_with_plan(job, [job.pack(0)], 1.0).value  # GiB
    for share, good in ((0.0, False), (0.7, False), (0.85, True), (1.09, True), (1.2, False), (math.nan, False)):
        peak = compare_with_plan(job, [job.pack(0)], share * planned)
        assert peak.value == pytest.approx(share, nan_ok=True) and peak.reaches(peak.good) == good
    assert peak.describe(peak.good) == "0.8 to 1.1"


def test_the_cost_model_gives_back_what_was_measured(job):
    from cost_model import HARDWARE
    from gpu_speed import TERA, measure_parts, pass_flops, read_rates

    assert len(list(measure_parts(job))) == 3 and all(value > 0 for value in job.seconds.values())
    rates, (products, attention) = read_rates(job, HARDWARE["h200"], 3.6), pass_flops(job, job.pack(0))
    assert rates["tower"] > 0
    flops = {name: rates[name] * HARDWARE["h200"].teraflops * TERA for name in ("matmul", "attention", "attention_backward")}
    assert products / flops["matmul"] + attention / flops["attention"] == pytest.approx(job.seconds["forward"])
    assert 2 * attention / flops["attention_backward"] == pytest.approx(job.seconds["attention backward"])
    assert rates["bandwidth"] == 3.6 / 4.8


def test_rates_are_of_one_pack(job, monkeypatch):
    """The forward pass that is set against a pack's operations is over that pack, not over others."""
    import gpu_speed

    tokens = []

    def forward(_policy, groups):
        tokens.append(sum(len(group.packed) for group in groups))
        return [SimpleNamespace(log_probs=torch.zeros(1, requires_grad=True))]

    def time(_job, run, _repeats=None):
        run()
        return [float(tokens[-1])]

    monkeypatch.setattr(gpu_speed, "compute_log_probs", forward)
    monkeypatch.setattr(gpu_speed.Job, "time", time)
    for measure in (gpu_speed.measure_passes, gpu_speed.measure_parts):
        list(measure(job))
    assert len(set(tokens)) > 1 and job.seconds["forward"] == sum(len(group.packed) for group in job.pack(0))


def test_rates_are_those_of_the_largest_model(gpu, monkeypatch, capsys):
    def measure(job):
        job.flops["products"] = {"larger": 3.0, "tiny": 2.0}[job.size]
        return iter(())

    monkeypatch.setattr(gpu, "MEASURES", (measure,))
    monkeypatch.setattr(gpu, "read_rates", lambda job, sheet, terabytes: {job.size: terabytes / sheet.terabytes})
    result = {"about": {"device": "NVIDIA H200", "copy_terabytes_a_second": 2.4}, "speeds": {}, "rates": {}}
    arguments = Namespace(shapes=["larger", "tiny"], device="cpu", json=None)
    assert gpu.time_shapes(arguments, "cpu", 1.0, result) == {"larger": [], "tiny": []}
    assert result["rates"] == {"larger": 0.5} and result["speeds"].keys() == {"larger", "tiny"}
    assert result["rates_are_of"] == "larger, shares of the data sheet of h200"
    assert "rates for benchmarks/cost_model.py: larger" in capsys.readouterr().out


def test_memory_is_that_of_the_device_that_was_given(gpu, monkeypatch):
    import workload

    second = torch.device("cuda:1")
    most = {torch.device("cuda:0"): 2**30, second: 3 * 2**30}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device="cuda:0": most[torch.device(device)])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device="cuda:0": most[torch.device(device)])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device="cuda:0": most.pop(torch.device(device)))
    assert workload.peak_memory(second) == workload.current_memory(second) == 3
    workload.reset_peak(second)
    assert second not in most


def test_the_device_that_was_given_is_the_current_one(gpu, monkeypatch):
    current = []

    def stop(device, *_):
        assert current == [1]
        raise TaroError(f"first product on {device}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(gpu, "product_teraflops", stop)
    with pytest.raises(TaroError, match="first product on cuda:1"):
        gpu.main(["--device=cuda:1"])
    assert gpu.take_device("cuda") == "cuda" and current == [1]
    with pytest.raises(TaroError, match="--device cuda:2: PyTorch sees 2 GPUs"):
        gpu.take_device("cuda:2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=gpu"], "--device gpu: must be cpu, cuda or cuda:N"),
        (["--device=cuda:x"], "--device cuda:x: must be cpu, cuda or cuda:N"),
        pytest.param(
            [], "PyTorch sees no GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"), id="no GPU"
        ),
    ],
)
def test_devices_that_are_not_there(gpu, arguments, message):
    with pytest.raises(TaroError, match=message):
        gpu.main(arguments)


def test_data_sheets(gpu):
    assert gpu.find_hardware("NVIDIA H100 80GB HBM3") == "h100" and gpu.find_hardware("NVIDIA GeForce RTX 4090") == "rtx4090"
    assert gpu.find_hardware("cpu, 2 threads") is None
