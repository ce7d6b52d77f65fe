"""One server that is asked for things over HTTP, each within a time.

Nothing that is raised holds the key: where a server says it back, it is taken out. Answers are left as they are, since a
short key may be a part of anything in them: `hide` is for those that are text.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from taro.errors import TaroError

LARGEST_ANSWER = 16 * 2**20  # bytes
MESSAGE_SHOWN = 500  # characters of what a server says


class RequestError(TaroError):
    """A request that got no answer.

    Args:
        message: what the server says, or why it says nothing.
        status: of HTTP, where the server answers with an error.
        late: the time was over.
        wait: seconds that the server asks to be left alone.
    """

    def __init__(self, message: str, status: int | None = None, late: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.late, self.wait = status, late, wait


def read_key(variable: str | None) -> str | None:
    """An API key. It is read whenever it is needed, so that it is part of nothing that is printed or written."""
    return None if variable is None else os.environ.get(variable, "").strip()


@dataclass(frozen=True)
class HTTPClient:
    """Sends JSON to one server, and gets text.

    Args:
        base: what all addresses begin with.
        key_variable: environment variable that holds the server's API key, if it has one.
    """

    base: str
    key_variable: str | None = None

    def url(self, path: str) -> str:
        return self.base.rstrip("/") + path

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float) -> str:
        """The text of the answer, which may take `seconds` until its end.

        Raises:
            RequestError: there is none.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url(path), data, {"Content-Type": "application/json"}, method=method)
        if key := read_key(self.key_variable):
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        end = time.monotonic() + seconds
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return _read(response, end).decode()
        except urllib.error.HTTPError as error:
            try:
                said = _read(error, end).decode(errors="replace")
            except (OSError, http.client.HTTPException):
                said = "(its message broke off)"
            wait = error.headers.get("Retry-After", "")
            raise RequestError(self.shown(said), error.code, wait=float(wait) if wait.isdecimal() else 0.0) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(getattr(error, "reason", error), TimeoutError):
                raise RequestError(f"no answer within {seconds:g} s", late=True) from None
            raise RequestError(self.shown(f"{type(error).__name__}: {error}")) from None

    def shown(self, text: str) -> str:
        """The text without the key, on one line, as short as a message may be."""
        text = " ".join(self.hide(text).split())  # hidden first: a part of a key would not be found
        return text if len(text) <= MESSAGE_SHOWN else text[: MESSAGE_SHOWN - 3] + "..."

    def hide(self, text: str) -> str:
        """The text without the key."""
        if key := read_key(self.key_variable):
            for form in (key, json.dumps(key)[1:-1], key.replace("/", "\\/")):  # also as JSON may write it
                text = text.replace(form, "(key)")
        return text


def _read(response: Any, end: float) -> bytes:
    """The body; the timeout of a socket only limits each part of it."""
    content = b""
    while chunk := response.read1(2**16):
        content += chunk
        if time.monotonic() > end:
            raise TimeoutError
        if len(content) > LARGEST_ANSWER:
            raise RequestError(f"its answer has more than {LARGEST_ANSWER} bytes")
    if response.length:  # bytes that were announced and did not come
        raise http.client.IncompleteRead(content, response.length)
    return content
