import errno
import io
import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from taro.cache import ABANDONED_SECONDS, CacheCounts, DiskCacheSettings, TensorCache, tensor_bytes

LIMIT = 10**9


@pytest.fixture
def cache(tmp_path):
    return TensorCache(tmp_path / "cache", LIMIT, "data.frame_cache")


@pytest.fixture(scope="session")
def processes():
    """Processes without the threads of this one, that need not import torch each (nor, through this file, anything slow)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["taro.cache"])
    return context


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        assert bytes(tensor_bytes(tensors[name])) == bytes(tensor_bytes(tensor))


def small():
    return {"a": torch.tensor([1.5, float("nan"), -0.0], dtype=torch.bfloat16), "b": torch.tensor(2, dtype=torch.uint8)}


def files(cache):
    return sorted(path.name for path in cache.folder.iterdir())


DTYPES = [torch.uint8, torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_put_comes_back_bit_equal(cache, dtype):
    values = torch.randint(0, 256, (6, 8, 5), dtype=torch.uint8)
    values = values.bool() if dtype == torch.bool else values.flatten().repeat(8).view(dtype)[:120].reshape(6, 4, 5)
    shared = {"whole": values, "view": values.transpose(0, 2), "gaps": values[::2, 1:], "twice": values}
    tensors = shared | {"scalar": values[0, 0, 0], "empty": values[:0]}
    cache.put("key", "same", tensors, {"note": 'ünï "key":"00" \\ \n'})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = cache.get("key", "same")
    assert_same(entry.tensors, tensors)
    assert entry.metadata == {"note": 'ünï "key":"00" \\ \n'}
    entry.tensors["whole"].zero_()  # its own memory, not a read-only file's
    assert cache.counts == CacheCounts(hits=1) and len(files(cache)) == 1


def test_what_was_not_put_is_a_miss(cache):
    assert cache.get("key", "same") is None
    cache.put("key", "same", small())
    assert cache.get("other key", "same") is None
    assert cache.counts == CacheCounts(misses=2)


def test_an_entry_of_something_else_is_stale(cache):
    cache.put("key", "100 bytes", small())
    with pytest.warns(UserWarning, match=r"data.frame_cache: .*changed since; it is deleted"):
        assert cache.get("key", "101 bytes") is None
    assert cache.counts == CacheCounts(stale=1) and files(cache) == []
    cache.put("key", "101 bytes", small())
    assert_same(cache.get("key", "101 bytes").tensors, small())


def test_another_key_under_the_same_name_is_stale(cache):
    """As if two keys had one hash."""
    cache.put("key", "same", small())
    cache.path("key").rename(cache.path("other"))
    with pytest.warns(UserWarning, match="changed since"):
        assert cache.get("other", "same") is None
    assert cache.counts == CacheCounts(stale=1) and files(cache) == []


@pytest.mark.filterwarnings("ignore:data.frame_cache")
def test_a_damaged_header_costs_the_entry_at_most(cache):
    cache.put("key", "same", small())
    path, data = cache.path("key"), cache.path("key").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for position in range(header):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        cache.get("key", "same")
    counts = cache.counts
    assert counts.torn + counts.stale + counts.hits == header and counts.hits < 0.1 * header
    path.write_bytes(bytes(len(data)))  # as a file system gives back what it lost
    assert cache.get("key", "same") is None


@pytest.mark.filterwarnings("ignore:data.frame_cache")
def test_every_wrong_length_is_noticed(cache):
    cache.put("key", "same", small())
    path = cache.path("key")
    data = path.read_bytes()
    lengths = [*range(len(data)), len(data) + 1, 2 * len(data)]
    for length in lengths:
        path.write_bytes((data + data)[:length])
        assert cache.get("key", "same") is None, length
    assert cache.counts == CacheCounts(torn=len(lengths)) and files(cache) == []


def test_a_torn_entry_is_warned_of_once_and_made_anew(cache):
    cache.put("key", "same", small())
    cache.path("key").write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"data.frame_cache: {cache.path('key')} is damaged .*; it is deleted"):
        assert cache.get("key", "same") is None
    cache.path("key").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get("key", "same") is None
    cache.put("key", "same", small())
    assert_same(cache.get("key", "same").tensors, small())
    assert cache.counts == CacheCounts(hits=1, torn=2)


def test_another_process_deletes_a_torn_entry_first(cache, monkeypatch):
    cache.put("key", "same", small())
    read = Path.read_bytes

    def read_and_delete(path):
        data = read(path)
        os.unlink(path)
        return data[:-1]

    monkeypatch.setattr(Path, "read_bytes", read_and_delete)
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.get("key", "same") is None
    assert cache.counts == CacheCounts(torn=1)


def test_an_entry_that_cannot_be_read_is_torn(cache):
    cache.path("key").mkdir(parents=True)
    with pytest.warns(UserWarning, match="can't be read"):
        assert cache.get("key", "same") is None
    assert cache.counts == CacheCounts(torn=1)


# ---- Size ----

KILOBYTE = {"a": torch.zeros(1000, dtype=torch.uint8)}


@pytest.fixture
def sized(tmp_path):
    """A cache for ten entries of `KILOBYTE`, and its way to say how long ago each was used."""
    cache = TensorCache(tmp_path / "cache", LIMIT)
    cache.put("size", "", KILOBYTE)
    size = cache.path("size").stat().st_size
    cache.path("size").unlink()
    cache = TensorCache(tmp_path / "cache", 10 * size + 9)

    def put(name, age):
        cache.put(name, "", KILOBYTE)
        if cache.path(name).exists():
            os.utime(cache.path(name), (0, time.time() - age))

    return cache, put


def kept(cache, names):
    return [name for name in names if cache.path(name).exists()]


def test_the_oldest_are_deleted_above_the_limit(sized):
    cache, put = sized
    for number in range(10):
        put(str(number), age=100 - number)
    names = [str(number) for number in range(11)]
    assert kept(cache, names) == names[:10]
    put("10", age=0)
    assert kept(cache, names) == names[2:]  # down to nine tenths


def test_what_was_used_lately_stays(sized):
    cache, put = sized
    for number in range(10):
        put(str(number), age=100 - number)
    assert cache.get("0", "") is not None and cache.get("3", "") is not None
    put("10", age=0)
    names = [str(number) for number in range(11)]
    assert kept(cache, names) == ["0", "3", *names[4:]]


def test_an_entry_above_the_limit_is_not_kept(sized):
    cache, put = sized
    put("a", age=10)
    cache.put("large", "", {"a": torch.zeros(11 * 1100, dtype=torch.uint8)})
    assert kept(cache, ["a", "large"]) == ["a"]
    cache.put("almost", "", {"a": torch.zeros(10 * 1100, dtype=torch.uint8)})
    assert kept(cache, ["a", "almost"]) == ["almost"] and cache.counts == CacheCounts()


def test_only_entries_are_deleted(sized):
    cache, put = sized
    others = ["model.safetensors", "0" * 32 + ".bin", "notes.txt"]
    for name in others:
        (cache.folder / name).write_bytes(b"0" * 50_000)
        os.utime(cache.folder / name, (0, 0))
    for number in range(30):
        put(str(number), age=100 - number)
    assert set(others) <= set(files(cache)) and len(files(cache)) <= 10 + len(others)


def test_several_writers_keep_the_limit_together(sized):
    """Each looks at the folder before it has written a tenth of the limit."""
    cache, _ = sized
    writers = [TensorCache(cache.folder, cache.limit_bytes) for _ in range(4)]
    for number in range(100):
        writers[number % 4].put(str(number), "", KILOBYTE)
        assert len(files(cache)) <= 10 + 3


def test_the_folder_is_not_scanned_at_each_entry(tmp_path, monkeypatch):
    cache, scans = TensorCache(tmp_path, 10**6), []
    scandir = os.scandir
    monkeypatch.setattr("taro.cache.os.scandir", lambda folder: scans.append(1) or scandir(folder))
    for number in range(200):
        cache.put(str(number), "", KILOBYTE)
    assert 200 * 1100 / (0.06 * 10**6) <= len(scans) <= 8  # once in 5 %


def test_files_that_vanish_while_the_folder_is_looked_at(sized, monkeypatch):
    cache, put = sized
    for number in range(10):
        put(str(number), age=100 - number)
    scandir = os.scandir

    @contextmanager
    def vanishing(folder):
        def entries():
            cache.path("5").unlink()
            yield from found
            cache.path("0").unlink()

        with scandir(folder) as files:
            found = list(files)
        yield entries()

    monkeypatch.setattr("taro.cache.os.scandir", vanishing)
    cache.put("large", "", {"a": torch.zeros(3000, dtype=torch.uint8)})
    assert kept(cache, [*"0123456789", "large"]) == [*"346789", "large"]
    assert cache.counts == CacheCounts()


def test_what_a_killed_writer_left_is_deleted_when_it_is_old(cache):
    cache.put("key", "same", small())
    name = cache.path("key").stem
    left = {f"{name}.safetensors.part-77": ABANDONED_SECONDS + 60, f"{name}.safetensors.part-78": 60}
    for file, age in left.items():
        (cache.folder / file).write_bytes(cache.path("key").read_bytes()[:50])
        os.utime(cache.folder / file, (0, time.time() - age))
    TensorCache(cache.folder, LIMIT).put("other", "same", small())
    assert files(cache) == sorted([cache.path("key").name, cache.path("other").name, f"{name}.safetensors.part-78"])


# ---- Writing that fails ----


class FullDisk(io.FileIO):
    """A file that takes 50 bytes."""

    def write(self, data):
        super().write(data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_warned_of_once_and_leaves_nothing(cache, monkeypatch):
    cache.put("kept", "same", small())
    before = files(cache)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: FullDisk(path, mode))
        with pytest.warns(UserWarning, match=r"data.frame_cache.folder = .*No space left on device"):
            cache.put("key", "same", small())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cache.put("kept", "same", {"a": torch.zeros(3)})
    assert cache.counts == CacheCounts(failed_writes=2) and files(cache) == before
    assert_same(cache.get("kept", "same").tensors, small())
    cache.put("key", "same", small())  # there is room again
    assert_same(cache.get("key", "same").tensors, small())


def test_a_write_that_the_system_cuts_short(cache):
    """The same with a real error in the middle of a file."""
    cache.folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.warns(UserWarning, match="File too large"):
            cache.put("key", "same", {"a": torch.zeros(2 * 10**6, dtype=torch.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.counts == CacheCounts(failed_writes=1) and files(cache) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    cache = TensorCache.from_settings(DiskCacheSettings(str(tmp_path / "file" / "cache")), "model.feature_cache")
    with pytest.warns(UserWarning):
        assert cache.get("key", "same") is None
    with pytest.warns(UserWarning, match=r"model.feature_cache.folder = .*Not a directory"):
        cache.put("key", "same", small())
    assert cache.counts.failed_writes == 1 and cache.limit_bytes == 100e9


# ---- Several processes ----

KEYS = [str(number) for number in range(20)]


def value_of(key, size=50_000):
    """What each process writes under a key: (size,) float32."""
    return {"a": torch.arange(size, dtype=torch.float32) + int(key)}


def write_and_read(folder, seed, limit, rounds, results):
    torch.set_num_threads(1)
    cache, rng, wrong = TensorCache(folder, limit), random.Random(seed), 0
    for _ in range(rounds):
        key = rng.choice(KEYS)
        entry = cache.get(key, "same")
        if entry is not None:
            wrong += not torch.equal(entry.tensors["a"], value_of(key)["a"])
        if entry is None or rng.random() < 0.5:
            cache.put(key, "same", value_of(key))
    results.put((wrong, cache.counts))


@pytest.mark.distributed
@pytest.mark.parametrize("entries", [100, 8], ids=["all fit", "some are deleted"])
def test_processes_that_write_the_same_entries(processes, tmp_path, entries):
    results, limit = processes.Queue(), entries * 201_000
    rounds = 300
    workers = [
        processes.Process(target=write_and_read, args=(tmp_path, seed, limit, rounds, results)) for seed in range(2)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        wrong, counts = results.get(timeout=60)
        assert wrong == counts.torn == counts.stale == counts.failed_writes == 0
        assert counts.hits + counts.misses == rounds and counts.hits > 0
    for worker in workers:
        worker.join()
    assert not list(tmp_path.glob("*.part*"))


def write_on_and_on(folder, started):
    torch.set_num_threads(1)
    cache, values = TensorCache(folder, LIMIT), {key: value_of(key, 10**6) for key in KEYS[:5]}
    while True:
        for key, value in values.items():
            cache.put(key, "same", value)
            started.set()


@pytest.mark.distributed
def test_a_writer_that_is_killed_leaves_whole_entries_only(processes, tmp_path):
    """Killed at any time, and every other time as soon as there is an unfinished file."""
    rng, cache = random.Random(0), TensorCache(tmp_path, LIMIT)

    def left():
        return set(tmp_path.glob("*.part*"))

    for number in range(10):
        started, before = processes.Event(), left()
        worker = processes.Process(target=write_on_and_on, args=(tmp_path, started))
        worker.start()
        assert started.wait(60)
        time.sleep(rng.uniform(0, 0.05))
        while number % 2 and left() == before:
            pass
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        for key in KEYS[:5]:
            entry = cache.get(key, "same")
            assert entry is None or torch.equal(entry.tensors["a"], value_of(key, 10**6)["a"])
    assert cache.counts.hits > 0 == cache.counts.torn
    assert left(), "no writer was killed in the middle of an entry"
