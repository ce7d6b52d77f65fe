import socket

import torch

from taro.rollout.vllm_weights import NCCLWeights


def test_nccl_is_asked_for_as_vllm_wants_it(monkeypatch):
    """vLLM's own classes for trainers, but the server and NCCL are stand-ins."""
    from vllm.distributed.weight_transfer import nccl_engine
    from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient

    posted, sent = [], []

    class Listening:
        def ask(self, method, path, body=None):
            posted.append(path[1:])
            return {"world_size": 2}

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setattr(HTTPVLLMWeightSyncClient, "_post", lambda self, path, json=None: posted.append((path, json)))
        monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: "the group")
        monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", lambda iterator, **_: sent.extend(iterator))
        weights = NCCLWeights("bfloat16", f"http://127.0.0.1:{listening.getsockname()[1]}", 5.0)
        for value in (1.0, 2.0):
            weights.send(Listening(), iter([("a", torch.nn.Parameter(torch.full((2, 3), value)))]))
    assert posted[:2] == ["shutdown_weight_transfer_engine", "get_world_size"]
    path, init = posted[2]
    assert path == "init_weight_transfer_engine"
    assert init["init_info"]["world_size"] == 3 and init["init_info"]["master_address"] == "127.0.0.1"
    update = {"update_info": {"names": ["a"], "dtype_names": ["bfloat16"], "shapes": [[2, 3]]}}
    once = [("start_weight_update", None), ("update_weights", update), ("finish_weight_update", None)]
    assert posted[3:] == [*once, *once]
    assert [(name, value[0, 0].item(), value.dtype) for name, value in sent] == [
        ("a", 1.0, torch.bfloat16),
        ("a", 2.0, torch.bfloat16),
    ]
