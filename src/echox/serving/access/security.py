"""Who may come in: checked for HTTP and WebSocket alike, before anything is accepted.

A browser sends the page's Origin with a WebSocket and lets every page on the internet open one to this machine, so a
foreign Origin is refused. A page may also point its own name at 127.0.0.1 (DNS rebinding): without a key only
loopback names and names that were allowed are taken for ours.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from echox.serving.access.client_secrets import SECRET_PREFIX, ClientSecrets

OPTIONS_KEY = "echox.session_options"
KEY_PROTOCOL = "openai-insecure-api-key."  # how browsers send a key with a WebSocket
_OPEN_PATHS = ("/health", "/ready")
_PAGE_PATH = re.compile(r"/([\w-]+\.(html|js|css|svg|png|ico|json))?", re.ASCII)
"""The page and its files; not "what is left", as a router may read a path more loosely than the door does."""


@dataclass(frozen=True)
class Door:
    """The rule.

    Attributes:
        api_key: what clients must show; None: nobody is asked.
        allowed_origins: origins of pages, like ``https://example.org``, besides the server's own; "*": all.
        any_host: believe any Host header though there is no key (somebody in front of us checks).

    Raises:
        ValueError: an empty key, or an origin that is none.
    """

    api_key: str | None = None
    allowed_origins: Sequence[str] = ()
    any_host: bool = False

    def __post_init__(self) -> None:
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("api key: expected some characters, found none; leave it out to ask nobody")
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if origin != "*" and (not parts.scheme or not parts.netloc or parts.path):
                raise ValueError(f"allowed origin: expected like https://example.org, found {origin!r}")

    def refuse(
        self, method: str, path: str, headers: dict[str, str], has_secret: bool = False
    ) -> tuple[int, str, str] | None:
        """Judge a request.

        Args:
            method: of HTTP, or "WEBSOCKET".
            path: of the URL.
            headers: lower-case names.
            has_secret: a client secret was shown and is good for this request: no key is asked for.

        Returns:
            None if it may come in, else the HTTP status, a code, and a sentence.
        """
        if path in _OPEN_PATHS:
            return None
        host = headers.get("host", "")
        own_name = self.api_key is not None or self.any_host or self._is_known(host)
        if not own_name:
            return 403, "host_not_allowed", "this server answers to loopback names only; give it an API key"
        origin = headers.get("origin")
        if origin is not None and not self._origin_fits(origin, host):
            return 403, "origin_not_allowed", "this page's origin is not allowed; see --allow-origin"
        is_page = method in ("GET", "HEAD") and _PAGE_PATH.fullmatch(path) is not None
        if self.api_key is None or is_page or has_secret or method == "OPTIONS":
            return None
        if not hmac.compare_digest(shown_key(headers).encode(), self.api_key.encode()):
            return 401, "invalid_api_key", "expected a valid API key (Authorization: Bearer ...)"
        return None

    def _is_known(self, host: str) -> bool:
        return is_loopback(_name_of(host)) or any(_site_of(origin) == host for origin in self.allowed_origins)

    def _origin_fits(self, origin: str, host: str) -> bool:
        if "*" in self.allowed_origins or origin in self.allowed_origins:
            return True
        return origin.startswith(("http://", "https://")) and _site_of(origin) == host != ""


def shown_key(headers: dict[str, str]) -> str:
    """The key that a client shows: ``Authorization: Bearer``, or a browser's subprotocol; "" if none."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(KEY_PROTOCOL):
            return protocol.strip()[len(KEY_PROTOCOL) :]
    return ""


_ONCE = (b"host", b"content-length", b"transfer-encoding", b"authorization", b"origin", b"content-type")


def ambiguous_header(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What two readers of a request's header could understand differently; None: nothing.

    A proxy that believes one of two lengths, hosts or keys and a server that believes the other can be made to see
    different requests (RFC 9112 section 11.2).

    Args:
        headers: names in lower case, and values.
    """
    names = [name for name, _ in headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        return "expected Content-Length or Transfer-Encoding, found both"
    for name in _ONCE:
        if names.count(name) > 1:
            return f"expected one {name.decode()} header, found {names.count(name)}"
    return None


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine for itself."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _site_of(origin: str) -> str:
    """Name and port in an origin; "" if it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """The name in a Host header, without its port; "" if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def send_refusal(response: Any, scope: Any, receive: Any, send: Any) -> None:
    """Send a response of HTTP; to a WebSocket that was not accepted, too, where the server can do that."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})
            return
    await response(scope, receive, send)


class Doorkeeper:
    """ASGI middleware that asks the door about HTTP and WebSocket requests (HTTP-only middleware misses the latter).

    Args:
        app: what is behind. door: the rule. refused: told the code of each refusal.
        secrets: the client secrets; the session options of a good one are in the scope under `OPTIONS_KEY`.
    """

    def __init__(self, app: Any, door: Door, refused: Callable[[str], None], secrets: ClientSecrets) -> None:
        self._app, self._door, self._refused, self._secrets = app, door, refused, secrets

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """One connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        ambiguous = ambiguous_header(scope["headers"])
        if ambiguous is not None:
            refusal: tuple[int, str, str] | None = (400, "ambiguous_request", ambiguous)
        else:
            refusal = self._judge_secret(scope, path, shown_key(headers))
        if refusal is None:
            has_secret = OPTIONS_KEY in scope
            refusal = self._door.refuse(scope.get("method", "WEBSOCKET"), path, headers, has_secret)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, code, message = refusal
        self._refused(code)
        body = {"error": {"type": "invalid_request_error", "code": code, "message": message, "param": None}}
        # Whatever else the client sends, a body above all, is not wanted.
        extra = {"Connection": "close", **({"WWW-Authenticate": "Bearer"} if status == 401 else {})}
        await send_refusal(JSONResponse(body, status, extra), scope, receive, send)

    def _judge_secret(self, scope: dict[str, Any], path: str, key: str) -> tuple[int, str, str] | None:
        """A client secret opens realtime sessions until it ends, and nothing else; other keys are the door's matter."""
        if not key.startswith(SECRET_PREFIX) or not path.startswith("/v1/"):
            return None
        secret = self._secrets.find(key)
        if secret is None:
            return 401, "invalid_client_secret", "expected a client secret that has not ended; ask for another"
        if scope["type"] != "websocket" or path != "/v1/realtime":
            return 403, "client_secret_scope", "a client secret is good for WebSockets at /v1/realtime only"
        scope[OPTIONS_KEY] = secret.options
        return None
