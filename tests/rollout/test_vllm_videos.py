"""What a vLLM server is sent for a group; a real one is in tests/with_vllm/test_server.py."""

import threading
from concurrent.futures import ThreadPoolExecutor

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


def ask_all(server, video, count=6):
    with ThreadPoolExecutor(count) as pool:
        answers = pool.map(lambda n: video.ask(server, {"number": n}, threading.Event()), range(count))
        assert [answer["number"] for answer in answers] == list(range(count))


def test_the_pixels_are_sent_once_and_first():
    server = FakeServer()
    ask_all(server, GroupVideo([1, 2], FEATURES, once=True))
    assert server.got[0] == (None, True) and sorted(server.got[1:]) == [(n, False) for n in range(6)]


def test_without_a_cache_they_are_sent_with_each_completion():
    server = FakeServer()
    ask_all(server, GroupVideo([1, 2], FEATURES, once=False))
    assert sorted(server.got) == [(n, True) for n in range(6)]


def test_a_video_that_had_to_make_room_is_sent_again():
    server = FakeServer(keeps=False)
    ask_all(server, GroupVideo([1, 2], FEATURES, once=True))
    assert sorted(server.got[1:]) == [(n, pixels) for n in range(6) for pixels in (False, True)]


def test_what_else_a_server_refuses_is_not_asked_again():
    server = FakeServer(keeps=False, status=400)
    with pytest.raises(ServerError, match="gone"):
        GroupVideo([1, 2], FEATURES, once=True).ask(server, {"number": 0}, threading.Event())
    assert server.got == [(None, True), (0, False)]


def test_a_group_that_is_given_up_sends_nothing_more():
    server, given_up = FakeServer(), threading.Event()
    given_up.set()
    with pytest.raises(EngineError, match="given up"):
        GroupVideo([1, 2], FEATURES, once=True).ask(server, {"number": 0}, given_up)
    assert server.got == []


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
    class Telling:
        def ask(self, method, path):
            both = {"mm_processor_cache_gb": 4.0, "mm_processor_cache_type": "lru"} | media
            here = {"data_parallel_size": 1, "_api_process_count": 1} | parallel
            return {"vllm_config": {"model_config": {"multimodal_config": both}, "parallel_config": here}}

    assert keeps_videos(Telling()) == keeps


def test_a_server_that_does_not_tell_keeps_none():
    class Silent:
        def ask(self, method, path):
            raise ServerError("not found", 404)

    assert not keeps_videos(Silent())
