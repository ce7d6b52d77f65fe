"""Tensors that are costly to make, kept in a folder that several processes and runs share.

An entry is one safetensors file, written under another name and then renamed, so that no reader meets half of one. One that
was cut short all the same, as when a machine went down, or that was made from something that has changed, is deleted and
counted, never returned.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from taro.files import PART, whole_file
from taro.ranges import PositiveFloat

# Only files with such names are ever deleted: the folder may hold something else, a model for instance.
ENTRY_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
UNFINISHED_NAME = re.compile(ENTRY_NAME.pattern + re.escape(PART) + ".+")
ABANDONED_SECONDS = 3600  # an unfinished file as old as this has lost its writer
KEPT_SHARE = 0.9  # of the limit, after entries were deleted
SCAN_SHARE = 0.05  # of the limit, which each process writes at most before it looks at the folder again


@dataclass(frozen=True)
class DiskCacheSettings:
    """A folder that keeps what is costly to make, across epochs and runs."""

    folder: str
    """Where; made where missing. Processes and runs may share it."""
    max_gigabytes: PositiveFloat = 100.0
    """Size (of 10^9 bytes) above which the entries that were not used for longest are deleted."""


@dataclass
class CacheCounts:
    """What happened in this process. Each `get` is one of the first four."""

    hits: int = 0
    misses: int = 0
    stale: int = 0
    """Entries of what has changed since: deleted."""
    torn: int = 0
    """Entries that can't be read, or were cut short: deleted."""
    failed_writes: int = 0
    """Entries that could not be kept, as on a full disk."""


@dataclass(frozen=True)
class Entry:
    tensors: dict[str, Tensor]  # on the CPU
    metadata: dict[str, str]


class TensorCache:
    """Entries by name, in one folder.

    Args:
        folder: made with the first entry.
        limit_bytes: size of all entries above which those not used for longest are deleted.
        setting: the setting that it comes from, for warnings.
    """

    def __init__(self, folder: str | Path, limit_bytes: float, setting: str = "disk cache") -> None:
        self.folder, self.limit_bytes, self.setting = Path(folder), limit_bytes, setting
        self.counts = CacheCounts()
        self.room = 0.0  # bytes that this process may write before it looks at the folder again

    @classmethod
    def from_settings(cls, settings: DiskCacheSettings, setting: str) -> TensorCache:
        return cls(settings.folder, settings.max_gigabytes * 1e9, setting)

    def path(self, name_key: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{hashlib.blake2b(name_key.encode(), digest_size=16).hexdigest()}.safetensors"

    def get(self, name_key: str, identity: str) -> Entry | None:
        """The entry, bit-equal to what was put, or None where it has to be made (again).

        Args:
            name_key: what is asked for.
            identity: of what it is made from, and which may change, such as a file's size and time.
        """
        path = self.path(name_key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self.counts.misses += 1
            return None
        except OSError as error:
            return self._discard(path, "torn", f"can't be read ({error})")
        try:
            texts = _texts(data)
            entry = Entry(safetensors.torch.load(data), json.loads(texts["metadata"]))
            made_from = texts["key"], texts["identity"]
        except (SafetensorError, ValueError, KeyError) as error:  # no header, or not the length that the header gives
            return self._discard(path, "torn", f"is damaged ({error})")
        if made_from != (name_key, identity):
            return self._discard(path, "stale", "is of something that has changed since")
        self.counts.hits += 1
        with suppress(OSError):  # deleted by another process, or read-only
            os.utime(path)
        return entry

    def put(self, name_key: str, identity: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
        """Keep tensors and texts, unless they alone are above the limit. A failure to write is counted and the first one
        warned of, not raised."""
        data = _to_bytes(tensors, {"key": name_key, "identity": identity, "metadata": json.dumps(metadata or {})})
        if len(data) > self.limit_bytes:
            return
        try:
            self._write(self.path(name_key), data)
            self.room -= len(data)
            if self.room < 0:
                self._enforce_limit()
        except OSError as error:
            setting = f"{self.setting}.folder = {self.folder}"
            self._count("failed_writes", f"{setting}: not everything can be kept there ({error}): choose another or make room")

    def _write(self, path: Path, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path, sync=False) as file:  # an entry that a machine's end cuts short is found out when it is read
            file.write(data)

    def _discard(self, path: Path, reason: str, text: str) -> None:
        with suppress(OSError):  # another process was faster, or may and we may not: what is put next replaces it
            path.unlink()
        self._count(reason, f"{self.setting}: {path} {text}; it is deleted and made anew")

    def _count(self, what: str, warning: str) -> None:
        """Count, and warn the first time."""
        count = getattr(self.counts, what) + 1
        setattr(self.counts, what, count)
        if count == 1:
            warnings.warn(f"{warning}. Further ones are only counted.", stacklevel=4)

    def _enforce_limit(self) -> None:
        """Look at the whole folder and delete what is too much; the newest entry always stays."""
        entries = sorted(self._scan())
        size = sum(size for _, size, _ in entries)
        if size > self.limit_bytes:
            for _, freed, path in entries[:-1]:
                if size <= KEPT_SHARE * self.limit_bytes:
                    break
                path.unlink(missing_ok=True)
                size -= freed
        self.room = min(self.limit_bytes - size, SCAN_SHARE * self.limit_bytes)

    def _scan(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, bytes and path of each entry. Deletes what killed writers left."""
        with os.scandir(self.folder) as files:
            for file in files:
                try:
                    if ENTRY_NAME.fullmatch(file.name):
                        yield file.stat().st_mtime_ns, file.stat().st_size, Path(file.path)
                    elif UNFINISHED_NAME.fullmatch(file.name) and time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                        os.unlink(file.path)
                except FileNotFoundError:  # another process deletes too
                    continue


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The values, row by row, from any device."""
    return memoryview(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())


def _to_bytes(tensors: dict[str, Tensor], texts: dict[str, str]) -> bytes:
    # safetensors takes neither views with gaps nor tensors that share memory: a copy of each.
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return safetensors.torch.save(copies, texts)


def _texts(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: 8 bytes with the header's length, then the header as JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]
