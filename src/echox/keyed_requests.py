"""HTTP requests to servers that need a key: the key goes to the named server only, never to where it redirects."""

from __future__ import annotations

import urllib.request
from http.client import HTTPMessage, HTTPResponse
from typing import IO


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: urllib would send the key to any host that a redirect names."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """None: urllib then raises the redirect as an HTTPError."""


def open_keyed(
    url: str, data: bytes | None, headers: dict[str, str], key: str | None, timeout_s: float
) -> HTTPResponse:
    """The answer of a server, to be read and closed.

    Args:
        url: https or http.
        data: body of a POST; None: a GET.
        headers: besides the key.
        key: is sent as ``Authorization: Bearer``; None or "": no key.
        timeout_s: longest wait for the network, s.

    Raises:
        OSError: the server cannot be reached, or refuses; a redirect too is a ``urllib.error.HTTPError``.
        http.client.HTTPException: the answer is no HTTP.
    """
    if key:
        headers = {**headers, "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, data, headers)
    response: HTTPResponse = urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s)
    return response
