import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from taro.cache import CacheCounts, DiskCacheSettings, TensorCache, tensor_bytes

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


def test_what_is_put_comes_back_bit_equal(cache):
    values = torch.randint(0, 256, (6, 8, 5), dtype=torch.uint8)
    tensors = {str(dtype): values.bool() if dtype == torch.bool else values.flatten().view(dtype) for dtype in DTYPES}
    tensors |= {"view": values.transpose(0, 2), "gaps": values[::2, 1:], "twice": values, "again": values}
    tensors |= {"scalar": values[0, 0, 0], "empty": values[:0]}
    cache.put("key", tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = cache.get("key")
    assert_same(kept, tensors)
    kept["twice"].zero_()  # its own memory, not a read-only file's
    assert cache.get("other key") is None
    assert cache.counts == CacheCounts(hits=1, misses=1) and len(files(cache)) == 1


@pytest.mark.filterwarnings("ignore:data.frame_cache")
def test_every_wrong_length_is_noticed(cache):
    cache.put("key", small())
    path = cache.path("key")
    data = path.read_bytes()
    lengths = [*range(len(data)), len(data) + 1, 2 * len(data)]
    for length in lengths:
        path.write_bytes((data + data)[:length])
        assert cache.get("key") is None, length
    path.write_bytes(bytes(len(data)))  # as a file system gives back what it lost
    assert cache.get("key") is None
    assert cache.counts == CacheCounts(torn=len(lengths) + 1) and files(cache) == []


def test_a_torn_entry_is_warned_of_once_and_made_anew(cache):
    cache.put("key", small())
    cache.path("key").write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"data.frame_cache: {cache.path('key')} is damaged .*; it is deleted"):
        assert cache.get("key") is None
    cache.path("key").mkdir()  # can't be read, nor deleted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get("key") is None
    cache.path("key").rmdir()
    cache.put("key", small())
    assert_same(cache.get("key"), small())
    assert cache.counts == CacheCounts(hits=1, torn=2)


def test_another_process_deletes_a_torn_entry_first(cache, monkeypatch):
    cache.put("key", small())
    read = Path.read_bytes

    def read_and_delete(path):
        data = read(path)
        os.unlink(path)
        return data[:-1]

    monkeypatch.setattr(Path, "read_bytes", read_and_delete)
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.get("key") is None
    assert cache.counts == CacheCounts(torn=1)


# ---- Size ----

KILOBYTE = {"a": torch.zeros(1000, dtype=torch.uint8)}
NAMES = [str(number) for number in range(11)]


@pytest.fixture
def sized(tmp_path):
    """A cache for ten entries of `KILOBYTE`, of which it has the first ten of NAMES, used one after the other."""
    cache = TensorCache(tmp_path / "cache", LIMIT)
    for age, name in enumerate(reversed(NAMES[:10]), start=90):
        cache.put(name, KILOBYTE)
        os.utime(cache.path(name), (0, time.time() - age))
    return TensorCache(cache.folder, 10 * cache.path("0").stat().st_size + 9)


def kept(cache, names=NAMES):
    return [name for name in names if cache.path(name).exists()]


def test_those_not_used_for_longest_are_deleted_above_the_limit(sized):
    assert sized.get("0") is not None and sized.get("3") is not None and kept(sized) == NAMES[:10]
    sized.put("10", KILOBYTE)
    assert kept(sized) == ["0", "3", *NAMES[4:]]  # down to nine tenths


def test_an_entry_above_the_limit_is_not_kept(sized):
    sized.put("large", {"a": torch.zeros(11 * 1100, dtype=torch.uint8)})
    assert kept(sized, [*NAMES, "large"]) == NAMES[:10]
    sized.put("almost", {"a": torch.zeros(10 * 1000, dtype=torch.uint8)})
    assert kept(sized, [*NAMES, "almost"]) == ["almost"] and sized.counts == CacheCounts()


def test_only_entries_are_deleted_and_what_killed_writers_left(sized):
    others, name = {"model.safetensors", "0" * 32 + ".bin", "notes.txt"}, sized.path("0").name
    for file in (*others, f"{name}.part-old", f"{name}.part-new"):
        (sized.folder / file).write_bytes(b"0" * 1000)
    for file in (*others, f"{name}.part-old"):
        os.utime(sized.folder / file, (0, 0))
    sized.put("10", KILOBYTE)
    left = set(files(sized))
    assert others <= left and f"{name}.part-old" not in left and f"{name}.part-new" in left
    assert kept(sized) == NAMES[2:]


def test_several_writers_keep_the_limit_together(sized):
    """Each looks at the folder before it has written a tenth of the limit."""
    writers = [TensorCache(sized.folder, sized.limit_bytes) for _ in range(4)]
    for number in range(100):
        writers[number % 4].put(str(number), KILOBYTE)
        assert len(files(sized)) <= 10 + 3


def test_the_folder_is_not_scanned_at_each_entry(tmp_path, monkeypatch):
    cache, scans, scan = TensorCache(tmp_path, 10**6), [], TensorCache._scan
    monkeypatch.setattr(TensorCache, "_scan", lambda cache: scans.append(1) or scan(cache))
    for number in range(200):
        cache.put(str(number), KILOBYTE)
    assert 200 * 1080 / (0.06 * 10**6) <= len(scans) <= 8  # once in 5 %


def test_files_that_vanish_while_the_folder_is_looked_at(sized, monkeypatch):
    iterdir = Path.iterdir

    def vanishing(folder):
        found = list(iterdir(folder))
        sized.path("5").unlink()
        yield from found
        sized.path("0").unlink()

    monkeypatch.setattr(Path, "iterdir", vanishing)
    sized.put("large", {"a": torch.zeros(3000, dtype=torch.uint8)})
    monkeypatch.undo()
    assert kept(sized, [*NAMES, "large"]) == [*"346789", "large"] and sized.counts == CacheCounts()


# ---- Writing that fails ----


def test_a_write_that_the_system_cuts_short_is_warned_of_once_and_leaves_nothing(cache):
    """An error in the middle of a file."""
    cache.put("kept", small())
    before, limits = files(cache), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.warns(UserWarning, match=r"data.frame_cache.folder = .*File too large"):
            cache.put("key", {"a": torch.zeros(2 * 10**6, dtype=torch.uint8)})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cache.put("kept", {"a": torch.zeros(2 * 10**6, dtype=torch.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.counts == CacheCounts(failed_writes=2) and files(cache) == before
    assert_same(cache.get("kept"), small())
    cache.put("key", small())  # there is room again
    assert_same(cache.get("key"), small())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    cache = TensorCache.from_settings(DiskCacheSettings(str(tmp_path / "file" / "cache")), "model.feature_cache")
    with pytest.warns(UserWarning):
        assert cache.get("key") is None
    with pytest.warns(UserWarning, match=r"model.feature_cache.folder = .*Not a directory"):
        cache.put("key", small())
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
        entry = cache.get(key)
        if entry is not None:
            wrong += not torch.equal(entry["a"], value_of(key)["a"])
        if entry is None or rng.random() < 0.5:
            cache.put(key, value_of(key))
    results.put((wrong, cache.counts))


@pytest.mark.distributed
@pytest.mark.parametrize("entries", [100, 8], ids=["all fit", "some are deleted"])
def test_processes_that_write_the_same_entries(processes, tmp_path, entries):
    results, limit = processes.Queue(), entries * 201_000
    rounds = 150
    workers = [
        processes.Process(target=write_and_read, args=(tmp_path, seed, limit, rounds, results)) for seed in range(2)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        wrong, counts = results.get(timeout=60)
        assert wrong == counts.torn == counts.failed_writes == 0
        assert counts.hits + counts.misses == rounds and counts.hits > 0
    for worker in workers:
        worker.join()
    assert not list(tmp_path.glob("*.part*"))


def write_on_and_on(folder, started):
    torch.set_num_threads(1)
    cache, values = TensorCache(folder, LIMIT), {key: value_of(key, 10**6) for key in KEYS[:5]}
    while True:
        for key, value in values.items():
            cache.put(key, value)
            started.set()


@pytest.mark.distributed
def test_a_writer_that_is_killed_leaves_whole_entries_only(processes, tmp_path):
    """Killed at any time, and every other time as soon as there is an unfinished file."""
    rng, cache = random.Random(0), TensorCache(tmp_path, LIMIT)

    def left():
        return set(tmp_path.glob("*.part*"))

    for number in range(6):
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
            entry = cache.get(key)
            assert entry is None or torch.equal(entry["a"], value_of(key, 10**6)["a"])
    assert cache.counts.hits > 0 == cache.counts.torn
    assert left(), "no writer was killed in the middle of an entry"
