"""What the texts of an evaluation were made with, in one line: no rule that scores them changes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from taro.messages import shorten


def describe_asked(config: Mapping[str, Any]) -> str:
    """Model, engine, frames, token budgets and prompt. `config`: what determines the answers, as in `config.yaml`."""
    grounding, sampling = config.get("grounding", {}), config.get("sampling", {})
    video, version = grounding.get("video", {}), model_version(config.get("model_files", {}))
    model = f"{config.get('model')}, {version}" if version else config.get("model")
    packages = ", ".join(f"{name} {release}" for name, release in config.get("packages", {}).items())
    return (
        f"made with {model} ({config.get('engine')}, {config.get('dtype')}; {packages}): "
        f"{video.get('fps')} frames a second, at most {video.get('max_frames')} of {video.get('max_tokens')} tokens in all; "
        f"answers of at most {sampling.get('max_tokens')} tokens; prompt {shorten(grounding.get('prompt'))}"
    )


def model_version(files: Mapping[str, str]) -> str:
    """A short name of a model's files; nothing where they aren't known. `files`: as `config.yaml` has them (`model_files`), a
    line for each file, or the commit of a hub model."""
    if "commit" in files:
        return "" if files["commit"] == "None" else f"commit {files['commit'][:12]}"
    digest = hashlib.blake2b(json.dumps(files, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"files {digest}" if files else ""
