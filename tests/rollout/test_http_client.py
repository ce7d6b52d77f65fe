"""The client, and a server of this file's own that misbehaves. The path that is asked for names how."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from taro.rollout.http_client import MESSAGE_SHOWN, HTTPClient, RequestError

KEY = 'sk/a-"key"-that-nobody-may-see'


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        getattr(self, self.path.strip("/"))()

    def do_POST(self):
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def reply(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content_Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def echo(self):
        said = {"key": self.headers["Authorization"], "body": getattr(self, "body", None), "method": self.command}
        self.reply(json.dumps(said).encode())

    def binary(self):
        self.reply(b"\xff\xfe\xfa")

    def refuse(self):
        """Says the key over the end of what is shown."""
        self.reply(b"." * (MESSAGE_SHOWN - 15) + self.headers["Authorization"].encode(), 503, Retry_After=7)

    def date(self):
        self.reply(b"a\n  b", 429, Retry_After="Wed, 21 Oct 2065 07:28:00 GMT")

    def hang_up(self):
        pass

    def broken_refusal(self):
        self.reply(b"", 500, Content_Length=100)

    def broken_answer(self):
        self.reply(b"{}", Content_Length=100)

    def stall(self):
        self.server.release.wait(30)

    def dribble(self):
        """A byte now and then, each in time, and no end for long."""
        self.send_response(200)
        self.end_headers()
        for _ in range(300):
            if not self.server.release.wait(0.05):
                self.wfile.write(b" ")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    release = threading.Event()

    def handle_error(self, request, client_address):
        """A client that gave up is part of the tests."""


@pytest.fixture(scope="module")
def base():
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(base, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HTTP_TEST_KEY", f"{KEY}\n")
    return HTTPClient(base, "HTTP_TEST_KEY")


def failure(client, path, seconds=30.0):
    with pytest.raises(RequestError) as caught:
        client.ask("GET", f"/{path}", seconds=seconds)
    assert caught.value.__cause__ is None and "nobody" not in str(caught.value)
    return caught.value


def test_what_is_sent_and_what_comes_back(client, base):
    assert json.loads(client.ask("GET", "/echo", seconds=30.0)) == {"key": f"Bearer {KEY}", "body": None, "method": "GET"}
    said = json.loads(client.ask("POST", "/echo", {"a": [1, None]}, seconds=30.0))
    assert said == {"key": f"Bearer {KEY}", "body": {"a": [1, None]}, "method": "POST"}
    assert json.loads(HTTPClient(base).ask("GET", "/echo", seconds=30.0))["key"] is None


def test_the_key_is_in_no_form_shown(client):
    assert [client.hide(form) for form in (KEY, json.dumps(KEY), KEY.replace("/", "\\/"))] == ["(key)", '"(key)"', "(key)"]
    assert "nobody" not in repr(client) + repr(vars(client))


def test_a_refusal_says_what_the_server_says(client):
    error = failure(client, "refuse")
    assert (error.status, error.wait, error.late) == (503, 7.0, False)
    assert len(str(error)) <= MESSAGE_SHOWN and "sk" not in str(error)
    error = failure(client, "date")
    assert (str(error), error.status, error.wait) == ("a b", 429, 0.0)


@pytest.mark.parametrize("path", ["stall", "dribble"])
def test_an_answer_that_does_not_end_in_time(client, path):
    error = failure(client, path, seconds=0.3)
    assert error.late and error.status is None and str(error) == "no answer within 0.3 s"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hang_up", "RemoteDisconnected"),
        ("broken_answer", "IncompleteRead"),
        ("binary", "UnicodeDecodeError"),
    ],
)
def test_no_answer(client, path, message):
    error = failure(client, path)
    assert message in str(error) and error.status is None and not error.late


def test_a_refusal_whose_message_breaks_off_keeps_its_status(client):
    error = failure(client, "broken_refusal")
    assert error.status == 500 and "broke off" in str(error)


def test_no_server(client):
    assert "Connection refused" in str(failure(HTTPClient("http://127.0.0.1:1"), "echo"))
