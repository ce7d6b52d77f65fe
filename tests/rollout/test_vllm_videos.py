"""What a vLLM server is sent for a group; a real one is in tests/with_vllm/test_server.py."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from taro.rollout import EngineError
from taro.rollout.vllm_videos import GroupVideo, ServerError, keeps_videos

PIXELS = {"video": ["pixels"]}
FEATURES = {"mm_hashes": {"video": ["a"]}, "mm_placeholders": {"video": [{"offset": 1, "length": 2}]}, "kwargs_data": PIXELS}


class FakeServer:
    """Keeps videos, or answers with the status of a server that has lost one; writes down what it got."""

    def __init__(self, keeps=True, status=500):
        self.keeps, self.status, self.videos, self.got = keeps, status, set(), []

    def ask(self, method, path, body):
        pixels = body["features"]["kwargs_data"] == PIXELS
        self.got.append((body.get("number"), pixels))
        (name,) = body["features"]["mm_hashes"]["video"]
        if pixels and self.keeps:
            self.videos.add(name)
        if not pixels and name not in self.videos:
            raise ServerError("gone", self.status)
        return {"number": body.get("number")}


def ask_all(server, once, given_up=False):
    """Six requests for a video, and what the server got; the answers are in order."""
    event = threading.Event()
    video = GroupVideo(server, FEATURES, event)
    with ThreadPoolExecutor(6) as pool:
        if once:
            video.send_first(pool, [1, 2])
        if given_up:
            event.set()
        answers = list(pool.map(lambda number: video.ask({"number": number}), range(6)))
    assert [answer["number"] for answer in answers] == list(range(6))
    return server.got


def test_the_pixels_are_sent_once_and_first():
    got = ask_all(FakeServer(), once=True)
    assert got[0] == (None, True) and sorted(got[1:]) == [(n, False) for n in range(6)]


def test_without_a_cache_they_are_sent_with_each_completion():
    assert sorted(ask_all(FakeServer(), once=False)) == [(n, True) for n in range(6)]


def test_a_video_that_had_to_make_room_is_sent_again():
    got = ask_all(FakeServer(keeps=False), once=True)
    assert sorted(got[1:]) == [(n, pixels) for n in range(6) for pixels in (False, True)]


def test_what_else_a_server_refuses_is_not_asked_again():
    server = FakeServer(keeps=False, status=400)
    with pytest.raises(ServerError, match="gone"):
        ask_all(server, once=True)
    assert server.got[0] == (None, True) and not any(pixels for _, pixels in server.got[1:])


def test_a_group_that_is_given_up_sends_nothing_more():
    server = FakeServer()
    with pytest.raises(EngineError, match="given up"):
        ask_all(server, once=True, given_up=True)
    assert server.got == [(None, True)]


@pytest.mark.parametrize(
    ("media", "parallel", "keeps"),
    [
        ({}, {}, True),
        ({"mm_processor_cache_gb": 0}, {}, False),
        ({"mm_processor_cache_type": "shm"}, {}, False),
        ({}, {"data_parallel_size": 2}, False),
        ({}, {"_api_process_count": 2}, False),
    ],
)
def test_which_servers_keep_videos(media, parallel, keeps):
    both = {"mm_processor_cache_gb": 4.0, "mm_processor_cache_type": "lru"} | media
    here = {"data_parallel_size": 1, "_api_process_count": 1} | parallel
    config = {"vllm_config": {"model_config": {"multimodal_config": both}, "parallel_config": here}}
    assert keeps_videos(SimpleNamespace(ask=lambda *_: config)) == keeps


def test_a_server_that_does_not_tell_keeps_none():
    def silent(method, path):
        raise ServerError("not found", 404)

    assert not keeps_videos(SimpleNamespace(ask=silent))
