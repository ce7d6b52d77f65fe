"""Checkpoints as files and folders. What a run does with them is in rl/test_checkpoint.py."""

import errno
import json
import os
import shutil
import tracemalloc
import zipfile

import pytest
import torch

from taro.files import link, publish, remove, remove_parts, write_text
from taro.models.checkpoint import CheckpointError, write_folder
from taro.run.checkpoint_files import (
    checkpoint_path,
    find_checkpoint,
    find_fault,
    list_checkpoints,
    set_aside,
    write_file,
    write_manifest,
)


def content(step=1):
    generator = torch.Generator().manual_seed(step)
    weights = {"policy.a": torch.randn(40, 10, generator=generator), "policy.b": torch.randn(7, generator=generator)}
    state = {0: {"step": torch.tensor(float(step)), "exp_avg": torch.randn(40, 10, generator=generator)}}
    return {"state_dict": weights, "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1}]}], "step": step}


def write(folder, step, kind="file"):
    path = checkpoint_path(folder, step)
    part = path.with_name(f"{path.name}.part")
    if kind == "file":
        write_file(part, content(step))
    else:
        write_folder(part, content(step))
        write_manifest(part)
    publish(part, path)
    return path


def same(one, other):
    weights, others = one["state_dict"], other["state_dict"]
    states, other_states = one["optimizer_states"][0]["state"], other["optimizer_states"][0]["state"]
    return (
        weights.keys() == others.keys()
        and all(torch.equal(value, others[name]) for name, value in weights.items())
        and states.keys() == other_states.keys()
        and all(torch.equal(value, other_states[0][name]) for name, value in states[0].items())
        and one["step"] == other["step"]
    )


def test_a_file_with_any_flipped_byte_is_refused_or_as_it_was(tmp_path):
    """Bytes that fill gaps may change; what is read never does."""
    path = write(tmp_path, 1)
    whole = path.read_bytes()
    assert find_fault(path) is None
    found, places = 0, range(0, len(whole), 7)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        if find_fault(path) is not None:
            found += 1
        else:
            assert same(torch.load(path, weights_only=True), content()), place
    assert found > 0.5 * len(places)
    path.write_bytes(whole)
    assert find_fault(path) is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, share):
    path = write(tmp_path, 1)
    os.truncate(path, int(share * path.stat().st_size))
    assert find_fault(path) is not None


def test_a_record_that_would_be_read_as_empty_is_refused(tmp_path):
    """One flipped bit makes PyTorch take it for a folder, and leave the tensor's memory as it is."""
    path = write(tmp_path, 1)
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        (entry,) = [entry for entry in file.infolist() if entry.filename.endswith("data/0")]
    name = entry.filename.encode()
    whole[whole.rindex(name) - 46 + 38] ^= 0x10
    path.write_bytes(whole)
    assert find_fault(path) == f"{entry.filename} in it is not what was written"


def test_a_folder_with_any_damaged_file_is_refused(tmp_path):
    path = write(tmp_path, 1, "folder")
    assert find_fault(path) is None
    files = sorted(file for file in path.iterdir())
    assert len(files) >= 4
    for file in files:
        whole = file.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1}:
            damaged = bytearray(whole)
            damaged[place] ^= 1
            file.write_bytes(damaged)
            fault = find_fault(path)
            assert fault is not None and (file.name in fault or file.name == "manifest.json"), (file, place)
        file.write_bytes(whole[:-1])
        assert find_fault(path) is not None
        file.unlink()
        assert find_fault(path) == f"no {file.name}"
        file.write_bytes(whole)
    assert find_fault(path) is None


def test_the_newest_whole_one_is_found(tmp_path):
    assert find_checkpoint(None, tmp_path) is None and find_checkpoint("auto", tmp_path) is None
    with pytest.raises(CheckpointError, match=r"ckpt_path = last: there is no checkpoint in .*; leave ckpt_path out, or set a"):
        find_checkpoint("last", tmp_path)
    paths = [write(tmp_path, step, kind) for step, kind in ((3, "file"), (20, "folder"), (1000000, "file"))]
    for name in ("step_000030.ckpt.part", "step_000040.ckpt.damaged", "step_1.ckpt", "last.ckpt", "step_0000500.ckpt.txt"):
        (tmp_path / name).write_text("no checkpoint")
    assert list_checkpoints(tmp_path) == dict(zip((3, 20, 1000000), paths, strict=True))
    for wanted in ("last", "auto"):
        assert find_checkpoint(wanted, tmp_path) == paths[2]
    os.truncate(paths[2], 100)
    with pytest.warns(UserWarning, match=r"step_1000000.ckpt is damaged \(BadZipFile.*: the checkpoint before it is used"):
        assert find_checkpoint("last", tmp_path) == paths[1]
    (paths[1] / "manifest.json").unlink()
    with pytest.warns(UserWarning, match=r"step_000020.ckpt is damaged \(no manifest.json\)"):
        assert find_checkpoint("auto", tmp_path) == paths[0]
    paths[0].write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"ckpt_path = auto: all checkpoints in .* are damag"):
        find_checkpoint("auto", tmp_path)


def test_a_path_is_taken_or_refused(tmp_path):
    path = write(tmp_path, 7)
    link(path, "last.ckpt")
    assert find_checkpoint(str(tmp_path / "last.ckpt"), tmp_path / "other") == path
    with pytest.raises(CheckpointError, match=r"ckpt_path = .*nowhere.ckpt: there is no such checkpoint"):
        find_checkpoint(str(tmp_path / "nowhere.ckpt"), tmp_path)
    os.truncate(path, 1000)
    with pytest.raises(CheckpointError, match=r"step_000007.ckpt is damaged \(BadZipFile.*name another, or last for"):
        find_checkpoint(str(path), tmp_path)


def test_a_file_is_written_without_a_copy_in_memory(tmp_path):
    big = {"weights": torch.zeros(10_000_000)}
    tracemalloc.start()
    write_file(tmp_path / "big.ckpt", big)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < (tmp_path / "big.ckpt").stat().st_size


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_publish_replaces_what_is_there(tmp_path, kind):
    for step in (1, 2):
        part = tmp_path / "step_000005.ckpt.part"
        write_file(part, content(step)) if kind == "file" else write_folder(part, content(step))
        publish(part, tmp_path / "step_000005.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005.ckpt"]


def test_a_folder_is_no_checkpoint_as_soon_as_it_is_being_deleted(tmp_path, monkeypatch):
    path = write(tmp_path, 4, "folder")
    monkeypatch.setattr("taro.run.checkpoint_files.shutil.rmtree", lambda _: None)  # killed right here
    remove(path)
    assert list_checkpoints(tmp_path) == {} and [path.name for path in tmp_path.iterdir()] == ["step_000004.ckpt.part.gone"]
    monkeypatch.undo()
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_parts_are_removed_as_parts(tmp_path):
    kept = [write(tmp_path, 1), write(tmp_path, 2, "folder")]
    link(kept[0], "last.ckpt")
    write_file(tmp_path / "step_000003.ckpt.part", content())
    write_file(tmp_path / "step_000003.ckpt.part1", content())
    write_folder(tmp_path / "step_000004.ckpt.part", content())
    (tmp_path / "last.ckpt.part77").symlink_to(kept[1].name)
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "step_000001.ckpt", "step_000002.ckpt"]
    assert all(find_fault(path) is None for path in kept)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_set_aside(tmp_path, kind):
    for _ in range(2):
        set_aside(write(tmp_path, 9, kind))
    assert [path.name for path in tmp_path.iterdir()] == ["step_000009.ckpt.damaged"]


def test_a_link_is_replaced(tmp_path):
    paths = [write(tmp_path, step) for step in (1, 2)]
    for path in paths:
        link(path, "best.ckpt")
    assert (tmp_path / "best.ckpt").resolve() == paths[1] and len(list(tmp_path.iterdir())) == 3
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    assert (tmp_path.with_name("moved") / "best.ckpt").exists()  # it points beside itself


def test_a_text_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    write_text(path, json.dumps([1]))

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("taro.run.checkpoint_files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, json.dumps([1, 2]))
    assert json.loads(path.read_text()) == [1]
