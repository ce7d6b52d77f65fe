"""The policy's weights on their way to a vLLM server, by files or by NCCL. Rank 0 alone talks to the server; the others help
to gather sharded parameters."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safetensors.torch import save_file
from torch import Tensor

from taro.distributed import global_rank
from taro.models.families import torch_dtype
from taro.models.weights import Weight, whole_weights


class FolderWeights:
    """Safetensors files under transformers' names in `folder`/policy, which the server reads in place of its own.

    Args:
        dtype: that the server computes in.
        folder: seen by both under the same path; files of an earlier policy are replaced.
    """

    def __init__(self, dtype: str, folder: Path) -> None:
        self.dtype, self.folder = torch_dtype(dtype), folder.absolute() / "policy"

    def send(self, server: Any, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        parameters = whole_weights(named_parameters, self.dtype)
        try:
            if global_rank() == 0:
                self.write(parameters)
        finally:
            for _ in parameters:  # a gather takes all ranks, and to its end
                pass
        if global_rank() == 0:
            server.ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self.folder)}})

    def write(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """A file for each weight; one at a time is in memory."""
        self.folder.mkdir(parents=True, exist_ok=True)
        written = set()
        for number, (name, value) in enumerate(parameters):
            path = self.folder / f"{number:05d}.safetensors"
            save_file({name: value.cpu().contiguous()}, path.with_suffix(".part"))
            written.add(path.with_suffix(".part").replace(path))  # a server that still reads the old one keeps it
        for path in set(self.folder.iterdir()) - written:
            path.unlink()


class NCCLWeights:
    """vLLM's weight transfer, by its own classes for trainers: rank 0 and the server's workers are one NCCL group.

    Written by vLLM 0.32's documented API; not run yet, since it needs GPUs on both sides. Rank 0 listens on a free port of
    the address that it reaches the server from.

    Args:
        dtype: that the server computes in, and weights are sent in.
        url: of the server.
        timeout: seconds that one step of an update may take.
    """

    def __init__(self, dtype: str, url: str, timeout: float) -> None:
        self.dtype, self.url, self.timeout = torch_dtype(dtype), url, timeout
        self.parameters: list[tuple[str, Weight]] = []
        self.transfer: Any = None

    def send(self, server: Any, named_parameters: Iterable[tuple[str, Weight]]) -> None:
        self.parameters = list(named_parameters)
        self.transfer = self.transfer or self._connect(server)
        self.transfer.send_weights()

    def _connect(self, server: Any) -> Any:
        from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        address, port, workers = "", 0, 0
        if global_rank() == 0:
            server.ask("POST", "/shutdown_weight_transfer_engine")  # of an earlier training
            workers = server.ask("GET", "/get_world_size")["world_size"]
            address, port = self._free_port()
        info = NCCLTrainerInitInfo(address, port, 1 + workers, rank=global_rank())
        client = HTTPVLLMWeightSyncClient(self.url, self.timeout)
        return WeightTransferTrainerFactory.trainer_init(info, client=client, source=self)

    def _free_port(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        default = 443 if parts.scheme == "https" else 80
        with socket.create_connection((parts.hostname, parts.port or default), timeout=self.timeout) as connection:
            address = connection.getsockname()[0]
        with socket.socket() as free:
            free.bind((address, 0))
            return address, free.getsockname()[1]

    # What vLLM calls a WeightSource: the parameters' names and shapes, and their values one at a time.

    def metadata(self) -> list[Any]:
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, self.dtype, tuple(parameter.shape)) for name, parameter in self.parameters]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return whole_weights(self.parameters, self.dtype)
