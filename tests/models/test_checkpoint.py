"""The format: what is written comes back, and what is not whole is told."""

import os

import pytest
import torch
from checkpoint_content import assert_equal, read_all
from torch import nn

from taro.models.checkpoint import (
    CheckpointError,
    begin,
    find_fault,
    named_tensors,
    read_into,
    read_run,
    write,
    write_meanwhile,
)


def trained(step=1, shape=(40, 10), fused=False):
    """Weights and their optimizer after so many updates."""
    generator = torch.Generator().manual_seed(step)
    weights = {
        name: nn.Parameter(torch.randn(size, generator=generator)) for name, size in (("policy.a", shape), ("policy.b.c", (7,)))
    }
    optimizer = torch.optim.AdamW(weights.values(), lr=0.1 * step, fused=fused)
    for _ in range(step):
        for parameter in weights.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return weights, optimizer


@pytest.fixture
def path(tmp_path):
    begin(tmp_path / "some.ckpt", {"step": 2, "kept": torch.tensor(0.5)})
    write(tmp_path / "some.ckpt", named_tensors(*trained(2)), None)
    return tmp_path / "some.ckpt"


@pytest.mark.parametrize("fused", [False, True])
def test_weights_and_optimizer_come_back(path, fused):
    """And not the settings of the optimizer."""
    weights, optimizer = trained(0, fused=fused)
    read_into(path, weights, optimizer)
    assert_equal(named_tensors(weights, optimizer), named_tensors(*trained(2)))
    assert optimizer.param_groups[0]["lr"] == 0 and len(named_tensors(weights, optimizer)) == 8
    for parameter in weights.values():  # goes on
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}
    assert find_fault(path) is None
    stored = read_run(path)
    assert stored["step"] == 2 and torch.equal(stored["kept"], torch.tensor(0.5))


def test_what_is_written_meanwhile_is_what_was_there(tmp_path):
    weights, optimizer = trained(2)
    begin(tmp_path, {})
    written = write_meanwhile(tmp_path, named_tensors(weights, optimizer), None)
    with torch.no_grad():
        for value in named_tensors(weights, optimizer).values():
            value.zero_()
    written.result()
    stored, expected = read_all(tmp_path), named_tensors(*trained(2))
    assert torch.equal(stored["weights"]["policy.a"], expected["model.policy.a"])
    assert torch.equal(stored["optimizer"]["policy.b.c.exp_avg"], expected["optimizer.policy.b.c.exp_avg"])


def test_other_weights_are_refused(path):
    weights, optimizer = trained(0, shape=(40, 11))
    weights["policy.new"] = weights.pop("policy.b.c")
    with pytest.raises(CheckpointError) as error:
        read_into(path, weights, optimizer)
    assert str(error.value).splitlines() == [
        f"{path} has 3 weights that do not fit the model:",
        "- policy.a: (40, 10) there, (40, 11) here",
        "- policy.b.c: (7,) there, not here",
        "- policy.new: not there, (7,) here",
    ]


@pytest.mark.parametrize("name", ["run.json", ".metadata", "__0_0.distcp"])
def test_a_file_that_is_cut_off_or_missing_is_a_fault(path, name):
    file = path / name
    whole = file.read_bytes()
    for size in {0, 1, len(whole) // 100, len(whole) // 2}:
        os.truncate(file, size)
        assert find_fault(path) is not None, size
        with pytest.raises(CheckpointError, match=r"some.ckpt is not a whole checkpoint \("):
            read_run(path)
        file.write_bytes(whole)
    assert find_fault(path) is None
    file.unlink()
    assert find_fault(path) == f"no {name}"


def test_bytes_that_can_not_be_read_are_an_error(path):
    part = path / "__0_0.distcp"
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(CheckpointError, match=r"some.ckpt can't be read \("):
        read_into(path, *trained(0))


def test_those_of_the_first_version_are_refused_by_name(tmp_path):
    (tmp_path / "file.ckpt").write_bytes(b"PK")
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "folder.ckpt" / "meta.pt").touch()
    for name in ("file.ckpt", "folder.ckpt"):
        with pytest.raises(CheckpointError, match=rf"{name} looks like a checkpoint of TaRO 0.1, which only that version can"):
            read_run(tmp_path / name)
        with pytest.raises(CheckpointError, match=r"TaRO 0.1"):
            read_into(tmp_path / name, *trained(0))
