"""HTTP requests to a server with OpenAI's interface, by the standard library alone."""

from __future__ import annotations

import json
import os
import urllib.error
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any

from echox.evaluation.scoring.schema import JsonObject
from echox.keyed_requests import open_keyed

_BROKEN = (OSError, HTTPException)
"""What a connection raises that ends too early, or an answer that is no HTTP: neither is a ValueError."""


class Endpoint:
    """A base URL that ends in ``/v1``, with its API key.

    Args:
        url: for example ``http://127.0.0.1:8000/v1``.
        api_key: None: ``OPENAI_API_KEY`` of the environment, or no key.
        timeout_s: of one request.

    Raises:
        ValueError: not a URL.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"expected a base URL such as http://127.0.0.1:8000/v1, found {url!r}")
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY")

    def get(self, path: str) -> Any:
        """JSON answer of a GET; raises as :meth:`post`."""
        return self._json(path, None, {})

    def post(self, path: str, body: object, content_type: str = "application/json") -> Any:
        """JSON answer of a POST.

        Args:
            path: after the base, as ``/chat/completions``.
            body: bytes, or an object to be written as JSON.
            content_type: of the body.

        Raises:
            ValueError: the server cannot be reached in time, refuses, or answers with something that is not JSON.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._json(path, data, {"Content-Type": content_type})

    def stream(self, path: str, body: object) -> Iterator[JsonObject]:
        """The events of a streamed answer (``data: {...}`` lines), as they arrive; raises as :meth:`post`."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        with self._open(path, json.dumps(body).encode(), headers) as response:
            lines, event = iter(response), None
            while (following := self._next_event(path, lines)) is not None:
                yield (event := following)
            if event is None:
                raise ValueError(f"{self.url}{path}: expected a stream of JSON events, found none")

    def _next_event(self, path: str, lines: Iterator[bytes]) -> JsonObject | None:
        try:
            for raw in lines:
                line = raw.decode("utf-8").strip()
                if line.startswith("data:") and line != "data: [DONE]":
                    event = json.loads(line[len("data:") :])
                    if not isinstance(event, dict):
                        raise ValueError(f"an event of type {type(event).__name__}")
                    return event
        except (*_BROKEN, ValueError, RecursionError) as error:
            raise ValueError(f"{self.url}{path}: expected a stream of JSON events, found {_found(error)}") from error
        return None

    def _json(self, path: str, data: bytes | None, headers: dict[str, str]) -> Any:
        with self._open(path, data, headers) as response:
            try:
                return json.loads(response.read())
            except (*_BROKEN, ValueError, RecursionError) as error:
                raise ValueError(f"{self.url}{path}: expected a JSON answer, found {_found(error)}") from error

    def _open(self, path: str, data: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        try:
            return open_keyed(self.url + path, data, headers, self._key, self._timeout_s)
        except urllib.error.HTTPError as error:
            try:
                detail = error.read(500).decode("utf-8", "replace")
            except _BROKEN as broken:
                detail = _found(broken)
            raise ValueError(f"{self.url}{path}: expected an answer, found HTTP {error.code}: {detail}") from error
        except _BROKEN as error:  # no connection, too slow, or no HTTP
            raise ValueError(
                f"{self.url}{path}: expected an answer, found {_found(error)}; is the server running?"
            ) from error


def _found(error: Exception) -> str:
    """An error in words; some of ``http.client`` have none."""
    return str(error) or type(error).__name__
