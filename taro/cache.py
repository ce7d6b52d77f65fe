"""Tensors that are costly to make, kept in a folder that several processes and runs share.

An entry is one safetensors file, written under another name and then renamed, so that no reader meets half of one. One that
was cut short all the same, as when a machine went down, is deleted and counted, never returned.
"""

from __future__ import annotations

import hashlib
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

# Only files with such names are ever deleted: the folder may hold something else, a model for instance. Killed writers leave
# parts of entries, which are deleted in their turn.
ENTRY_NAME = re.compile(rf"[0-9a-f]{{32}}\.safetensors({re.escape(PART)}.+)?")
KEPT_SHARE = 0.9  # of the limit, after entries were deleted
WRITING = 3600.0  # seconds after which the part of an entry is taken for a killed writer's
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
    """What happened in this process. Each `get` is one of the first three."""

    hits: int = 0
    misses: int = 0
    torn: int = 0
    """Entries that can't be read, or were cut short: deleted."""
    failed_writes: int = 0
    """Entries that could not be kept, as on a full disk."""


class TensorCache:
    """Tensors by name, under a key, in one folder.

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

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors on the CPU, bit-equal to what was put, or None where they have to be made (again).

        Args:
            key: all that they follow from; what may change, such as a file's size and time, included.
        """
        path = self.path(key)
        try:
            tensors = safetensors.torch.load(path.read_bytes())
        except FileNotFoundError:
            self.counts.misses += 1
            return None
        except (OSError, SafetensorError, KeyError) as error:  # not of the length that its header gives, for instance
            with suppress(OSError):  # another process was faster, or may and we may not: what is put next replaces it
                path.unlink()
            self._count("torn", f"{self.setting}: {path} is damaged ({error}); it is deleted and made anew")
            return None
        self.counts.hits += 1
        with suppress(OSError):  # deleted by another process, or read-only
            os.utime(path)
        return tensors

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors, unless they alone are above the limit. A failure to write is counted and the first one warned of, not
        raised."""
        # safetensors takes neither views with gaps nor tensors that share memory: a copy of each.
        dense = {"copy": True, "memory_format": torch.contiguous_format}
        data = safetensors.torch.save({name: tensor.detach().to("cpu", **dense) for name, tensor in tensors.items()})
        if len(data) > self.limit_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path(key), sync=False) as file:  # what a machine's end cuts short is found when it is read
                file.write(data)
            self.room -= len(data)
            if self.room < 0:
                self._enforce_limit()
        except OSError as error:
            setting = f"{self.setting}.folder = {self.folder}"
            self._count("failed_writes", f"{setting}: not everything can be kept there ({error}): choose another or make room")

    def _count(self, what: str, warning: str) -> None:
        count = getattr(self.counts, what) + 1
        setattr(self.counts, what, count)
        if count == 1:
            warnings.warn(f"{warning}. Further ones are only counted.", stacklevel=3)

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
        """Time of last use, bytes and path of each entry."""
        for path in self.folder.iterdir():
            if ENTRY_NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):  # another process deletes too
                    status = path.stat()
                    if path.suffix != ".safetensors" and time.time() - status.st_mtime < WRITING:
                        continue
                    yield status.st_mtime_ns, status.st_size, path


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The values, row by row, from any device."""
    return memoryview(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
