"""The policy's weights on their way to a vLLM server, by files or by NCCL. Rank 0 alone talks to the server; the others help
to gather sharded parameters."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import save_file
from torch import Tensor

from taro.distributed import gather, global_rank
from taro.models.families import torch_dtype
from taro.models.weights import Weight, whole_weights
from taro.rollout.engine import EngineError

SHARD_BYTES = 4 * 2**30  # held in memory at a time while a folder is written


class _Ranks:
    def __init__(self, dtype: str) -> None:
        self.dtype = torch_dtype(dtype)
        self.rank = global_rank()

    def agree(self, error: EngineError | None) -> None:
        """Raise on every rank what went wrong on one; none goes on before all have come here."""
        messages = [message for message in gather(None if error is None else str(error)) if message is not None]
        if messages:
            raise EngineError(messages[0]) from error


class FolderWeights(_Ranks):
    """Safetensors files under transformers' names in `folder`/policy, which the server reads in place of its own.

    Args:
        dtype: that the server computes in.
        folder: seen by both under the same path; files of an earlier policy are replaced.
    """

    def __init__(self, dtype: str, folder: Path) -> None:
        super().__init__(dtype)
        self.folder = folder.absolute() / "policy"

    def send(self, server: Any, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        parameters = whole_weights(named_parameters)
        try:
            if self.rank == 0:
                self.write(parameters)
        finally:
            for _ in parameters:  # a gather takes all ranks, and to its end
                pass
        if self.rank == 0:
            request = {"method": "reload_weights", "kwargs": {"weights_path": str(self.folder)}}
            server.ask("POST", "/collective_rpc", request)

    def write(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """A few whole files, each complete from the moment that it has its name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = []
        for number, shard in enumerate(self._shards(parameters)):
            path = self.folder / f"model-{number:05d}.safetensors"
            part = path.with_suffix(".part")
            save_file(shard, part)
            os.replace(part, path)
            written.append(path)
        for path in set(self.folder.glob("*.safetensors")) - set(written):
            path.unlink()

    def _shards(self, parameters: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        shard, size = {}, 0
        for name, value in parameters:
            shard[name] = value.to("cpu", self.dtype).contiguous()
            size += shard[name].nbytes
            if size >= SHARD_BYTES:
                yield shard
                shard, size = {}, 0
        if shard:
            yield shard


class NCCLWeights(_Ranks):
    """vLLM's weight transfer, by its own classes for trainers: rank 0 and the server's workers are one NCCL group.

    Written by vLLM 0.32's documented API; not run yet, since it needs GPUs on both sides. Rank 0 listens on a free port of
    the address that it reaches the server from.

    Args:
        dtype: that the server computes in, and weights are sent in.
        url: of the server.
        timeout: seconds that one step of an update may take.
    """

    def __init__(self, dtype: str, url: str, timeout: float) -> None:
        super().__init__(dtype)
        self.url, self.timeout = url, timeout
        self.source = _Source(self.dtype)
        self.transfer: Any = None

    def send(self, server: Any, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        self.source.parameters = list(named_parameters)
        if self.transfer is None:
            self.transfer = self._connect(server)
        self.transfer.send_weights()

    def _connect(self, server: Any) -> Any:
        from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        address, port, workers = "", 0, 0
        if self.rank == 0:
            server.ask("POST", "/shutdown_weight_transfer_engine")  # of an earlier training
            workers = server.ask("GET", "/get_world_size")["world_size"]
            address, port = self._free_port()
        info = NCCLTrainerInitInfo(address, port, 1 + workers, rank=self.rank)
        client = HTTPVLLMWeightSyncClient(self.url, self.timeout)
        return WeightTransferTrainerFactory.trainer_init(info, client=client, source=self.source)

    def _free_port(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        default = 443 if parts.scheme == "https" else 80
        with socket.create_connection((parts.hostname, parts.port or default), timeout=self.timeout) as connection:
            address = connection.getsockname()[0]
        with socket.socket() as free:
            free.bind((address, 0))
            return address, free.getsockname()[1]


class _Source:
    """What vLLM calls a WeightSource: the parameters' names and shapes, and their values one at a time."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.parameters: list[tuple[str, Weight]] = []

    def metadata(self) -> list[Any]:
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, self.dtype, tuple(parameter.shape)) for name, parameter in self.parameters]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in whole_weights(self.parameters):
            yield name, value.to(self.dtype)
