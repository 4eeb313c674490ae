"""Access policy for HTTP and WebSocket requests, and the middleware that applies it before anything is accepted.

A browser lets every page on the internet open a WebSocket to this machine, and sends the page's Origin with it. So a
foreign Origin is refused. A page may also let its own host name point to 127.0.0.1 (DNS rebinding). So without a key
only loopback names and the names of allowed origins are accepted as names of this server.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from echox.serving.access.client_secrets import SECRET_PREFIX, ClientSecrets

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPTIONS_KEY = "echox.session_options"
KEY_SUBPROTOCOL = "openai-insecure-api-key."  # browsers send the key of a WebSocket as a subprotocol with this prefix
ENCODED_KEY_SUBPROTOCOL = "echox-api-key."  # or with this one, in base64url: a subprotocol has no "/" or "="
_SECRET_USES = (("WEBSOCKET", "/v1/realtime"), ("POST", "/v1/realtime/calls"))
_PUBLIC_PATHS = ("/health", "/ready")
STATIC = Path(__file__).parents[1] / "static"
"""The files of the page."""
_PAGE_PATHS = {"/", "/about.json", *(f"/{file.relative_to(STATIC).as_posix()}" for file in STATIC.rglob("*.*"))}
"""The page and its files. Not a list of the other paths: a router may read paths less strictly."""


class AccessRefusal(NamedTuple):
    """The reason why a request is refused: HTTP status, code for programs, message for people."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class AccessPolicy:
    """The rules that decide which requests are accepted.

    Attributes:
        api_key: the key that clients must send; None: no key is needed. White space around it is no part of it.
        allowed_origins: origins of pages, like ``https://example.org``, besides the server's own; "*": all.
        any_host: accept any Host header though there is no key (a proxy in front of the server checks it).

    Raises:
        ValueError: a key that is empty, not printable ASCII or like a client secret, or a malformed origin.
    """

    api_key: str | None = None
    allowed_origins: Sequence[str] = ()
    any_host: bool = False

    def __post_init__(self) -> None:
        if self.api_key is not None:
            object.__setattr__(self, "api_key", _checked_key(self.api_key))
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if origin != "*" and (not parts.scheme or not parts.netloc or parts.path):
                raise ValueError(f"allowed origin: expected one like https://example.org, found {origin!r}")

    def check(self, method: str, path: str, headers: dict[str, str], has_secret: bool = False) -> AccessRefusal | None:
        """Check a request.

        Args:
            method: the HTTP method, or "WEBSOCKET".
            path: path of the URL.
            headers: names in lower case -> values.
            has_secret: the request has a client secret that is valid for it, so it needs no key.

        Returns:
            None if the request is accepted, else the reason of the refusal.
        """
        if path in _PUBLIC_PATHS:
            return None
        host = headers.get("host", "")
        own_name = self.api_key is not None or self.any_host or self._is_own_name(host)
        if not own_name:
            message = "this server answers to loopback names only; give it an API key"
            return AccessRefusal(403, "host_not_allowed", message)
        origin = headers.get("origin")
        if origin is not None and not self._origin_fits(origin, host):
            message = "this page's origin is not allowed; see --allow-origin"
            return AccessRefusal(403, "origin_not_allowed", message)
        is_page = method in ("GET", "HEAD") and path in _PAGE_PATHS
        if self.api_key is None or is_page or has_secret or method == "OPTIONS":
            return None
        if not hmac.compare_digest(presented_key(headers).encode(), self.api_key.encode()):
            message = "expected a valid API key (Authorization: Bearer ...)"
            return AccessRefusal(401, "invalid_api_key", message)
        return None

    def _is_own_name(self, host: str) -> bool:
        return is_loopback(_host_name(host)) or any(_host_and_port(origin) == host for origin in self.allowed_origins)

    def _origin_fits(self, origin: str, host: str) -> bool:
        if "*" in self.allowed_origins or origin in self.allowed_origins:
            return True
        return origin.startswith(("http://", "https://")) and _host_and_port(origin) == host != ""


def _checked_key(text: str) -> str:
    """A key of the server, without what stands around it: a file often ends with a line break."""
    key = text.strip()
    if not key:
        raise ValueError("api key: expected some characters, found none; leave it out to serve without a key")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            "api key: expected printable ASCII, which every client can send in a header, found other letters"
        )
    if key.startswith(SECRET_PREFIX):
        message = f"found one that begins with {SECRET_PREFIX!r}, as client secrets do; choose another"
        raise ValueError(f"api key: expected one that is told from client secrets, {message}")
    return key


def presented_key(headers: dict[str, str]) -> str:
    """The key of a request: from ``Authorization: Bearer`` or a browser's subprotocol; "" if there is none."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    for protocol in map(str.strip, headers.get("sec-websocket-protocol", "").split(",")):
        if protocol.startswith(KEY_SUBPROTOCOL):
            return protocol.removeprefix(KEY_SUBPROTOCOL)
        if protocol.startswith(ENCODED_KEY_SUBPROTOCOL):
            return _decoded_key(protocol.removeprefix(ENCODED_KEY_SUBPROTOCOL))
    return ""


def _decoded_key(text: str) -> str:
    """The key in base64url without padding; "" if it is malformed."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode()
    except ValueError:
        return ""


_SINGLE_HEADERS = (b"host", b"content-length", b"transfer-encoding", b"authorization", b"origin", b"content-type")


def ambiguous_header(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """A description of what two readers of a request's header could understand differently; None: nothing.

    If a proxy reads one of two lengths, hosts or keys and the server reads the other, an attacker can show them
    different requests (RFC 9112 section 11.2).

    Args:
        headers: names in lower case, and values.
    """
    names = [name for name, _ in headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        return "expected Content-Length or Transfer-Encoding, found both"
    for name in _SINGLE_HEADERS:
        if names.count(name) > 1:
            return f"expected one {name.decode()} header, found {names.count(name)}"
    return None


def is_loopback(name: str) -> bool:
    """Whether a host name or address is the loopback interface of this machine."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_and_port(origin: str) -> str:
    """Host name and port of an origin; "" if it is malformed."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """The name in a Host header, without the port; "" if it is malformed."""
    if "@" in host:  # a Host header names no user (RFC 9110 section 7.2)
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def send_refusal(response: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an HTTP response, also to a WebSocket that was not accepted, if the server supports that."""
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})
            return
    await response(scope, receive, send)


class AccessMiddleware:
    """ASGI middleware that applies an access policy to HTTP and WebSocket requests.

    Args:
        app: the application that gets the accepted requests.
        policy: the access policy.
        on_refusal: called with the code of each refusal.
        secrets: the client secrets. The session options of a valid one are put into the scope under `OPTIONS_KEY`.
    """

    def __init__(
        self, app: ASGIApp, policy: AccessPolicy, on_refusal: Callable[[str], None], secrets: ClientSecrets
    ) -> None:
        self._app, self._policy, self._on_refusal, self._secrets = app, policy, on_refusal, secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        ambiguous = ambiguous_header(scope["headers"])
        if ambiguous is not None:
            refusal: AccessRefusal | None = AccessRefusal(400, "ambiguous_request", ambiguous)
        else:
            refusal = self._check_secret(scope, path, presented_key(headers))
        if refusal is None:
            has_secret = OPTIONS_KEY in scope
            refusal = self._policy.check(scope.get("method", "WEBSOCKET"), path, headers, has_secret)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, code, message = refusal
        self._on_refusal(code)
        body = {"error": {"type": "invalid_request_error", "code": code, "message": message, "param": None}}
        # The rest of the request, above all its body, is not read.
        extra = {"Connection": "close", **({"WWW-Authenticate": "Bearer"} if status == 401 else {})}
        await send_refusal(JSONResponse(body, status, extra), scope, receive, send)

    def _check_secret(self, scope: Scope, path: str, key: str) -> AccessRefusal | None:
        """Check a client secret, which opens realtime sessions until it expires. The policy checks other keys."""
        if not key.startswith(SECRET_PREFIX) or not path.startswith("/v1/"):
            return None
        secret = self._secrets.find(key)
        if secret is None:
            message = "expected a client secret that has not ended; ask for another"
            return AccessRefusal(401, "invalid_client_secret", message)
        if (scope.get("method", "WEBSOCKET"), path) not in _SECRET_USES:
            message = "a client secret is good for WebSockets at /v1/realtime and POST /v1/realtime/calls only"
            return AccessRefusal(403, "client_secret_scope", message)
        scope[OPTIONS_KEY] = secret.options
        return None
