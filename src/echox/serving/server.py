"""The server: routes, WebSocket endpoint, health, and a shutdown that lets replies finish."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from echox.serving.access.client_secrets import lifetime_s
from echox.serving.access.connections import BACKLOG, Connections
from echox.serving.access.log_limit import limited_logging
from echox.serving.access.places import Full
from echox.serving.access.security import OPTIONS_KEY, Door, Doorkeeper, send_refusal
from echox.serving.protocol.events import EventError, new_id, take
from echox.serving.realtime.session import RealtimeSession
from echox.serving.rest.chat import completions
from echox.serving.rest.common import client_of, endpoint, error_response, json_object
from echox.serving.rest.speech import speak
from echox.serving.rest.transcriptions import transcribe
from echox.serving.service.outbox import SlowReader
from echox.serving.service.service import Service

log = logging.getLogger("echox.serving")
STATIC = Path(__file__).parent / "static"
_CLOSE_S = 2.0  # for the last words to leave
_PAGE_HEADERS = {
    # Nothing from elsewhere, no inline code, and no other page may frame this one and catch its clicks.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked again each time, answered by 304: a new server never meets an old page
}


class Page(StaticFiles):
    """The files of the page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever no other route knows ends here, WebSockets too."""
        if scope["type"] == "websocket":
            not_found = error_response(404, "not_found", "Not Found; see docs/protocol.md")
            await send_refusal(not_found, scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One of them; what is not there is not found, whatever was to be done with it."""
        if scope["method"] not in ("GET", "HEAD"):
            await super().get_response(path, {**scope, "method": "HEAD"})
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        response = await super().get_response(path, scope)
        response.headers.update(_PAGE_HEADERS)
        if path.endswith(".js"):  # whatever this machine's list of types says: nosniff makes browsers strict
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


def create_app(service: Service, door: Door | None = None) -> Doorkeeper:
    """The whole application around one service; door: who may come in (None: loopback names, without a key)."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with limited_logging():
            service.begin()
            yield
            await service.drain()
            service.close()

    async def realtime(websocket: WebSocket) -> None:
        await serve_client(service, websocket)

    async def upgrade(_: Request) -> Response:
        return error_response(426, "upgrade_required", "this is a WebSocket endpoint", {"Upgrade": "websocket"})

    async def models(_: Request) -> Response:
        card = {"id": service.name, "object": "model", "created": 0, "owned_by": "echox"}
        return JSONResponse({"object": "list", "data": [card]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            return error_response(404, "model_not_found", f"expected the model {service.name!r}")
        return JSONResponse({"id": service.name, "object": "model", "created": 0, "owned_by": "echox"})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        full = service.session_places.taken >= service.limits.max_sessions
        state = "draining" if service.draining else "full" if full else "ready"
        body = {"status": state, "model": service.name, "vad": service.vad_name}
        return JSONResponse(body, 200 if state == "ready" else 503)

    async def about(_: Request) -> Response:  # the page's first view; without a key, like the page itself
        return JSONResponse({"model": service.name, **asdict(service.model.about)})

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    limits = service.limits
    routes: list[BaseRoute] = [
        WebSocketRoute("/v1/realtime", realtime),
        Route("/v1/realtime", upgrade),
        Route(
            "/v1/realtime/client_secrets",
            endpoint(service, create_client_secret, limits.max_text_bytes),
            methods=["POST"],
        ),
        Route("/v1/chat/completions", endpoint(service, completions, limits.max_upload_bytes), methods=["POST"]),
        Route("/v1/audio/speech", endpoint(service, speak, limits.max_text_bytes), methods=["POST"]),
        Route("/v1/audio/transcriptions", endpoint(service, transcribe, limits.max_upload_bytes), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        Route("/about.json", about),
    ]
    door = door or Door()
    # What other origins may read over HTTP; whether they may come in at all is the door's matter.
    cors = Middleware(
        CORSMiddleware, allow_origins=list(door.allowed_origins), allow_methods=["*"], allow_headers=["*"]
    )
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[cors] if door.allowed_origins else [],
        exception_handlers={HTTPException: _no_such_place},
    )
    if STATIC.is_dir():
        # Not a route: it would match every path, so that another method of a known one were a page that is not there.
        app.router.default = Page(directory=STATIC, html=True)
    return Doorkeeper(app, door, lambda code: service.metrics.refused.labels(code).inc(), service.client_secrets)


async def create_client_secret(service: Service, request: Request, body: bytes) -> JSONResponse:
    """A key for a while, for realtime sessions that begin with the options given here."""
    asked = await json_object(body or b"{}")
    options = service.session_options()
    options.update(take(asked, "session", dict, default={}))
    secret = service.client_secrets.create(lifetime_s(asked), options)
    shown = {"id": new_id("sess"), **options.to_dict()}
    return JSONResponse({"value": secret.value, "expires_at": secret.expires_at, "session": shown})


async def _no_such_place(_: Request, error: Exception) -> Response:
    """A path that is not there, or another method: answered like every mistake."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return error_response(error.status_code, code, f"{error.detail}; see docs/protocol.md", dict(error.headers or {}))


async def serve_client(service: Service, websocket: WebSocket) -> None:
    """One WebSocket from handshake to close."""
    offered = websocket.scope.get("subprotocols", [])
    try:
        await websocket.accept(subprotocol="realtime" if "realtime" in offered else None)
    except (WebSocketDisconnect, RuntimeError):
        log.debug("a client left before it was let in")
        return
    session: RealtimeSession | None = None
    client = client_of(websocket)
    try:
        if service.draining:
            raise Full
        await service.session_places.take(client)
    except Full:
        await _refuse(service, websocket)
        return
    try:
        session = RealtimeSession(service, websocket.send_text, websocket.scope.get(OPTIONS_KEY))
        service.sessions.add(session)
        await _converse(service, session, websocket)
    finally:
        service.session_places.give(client)
        if session is not None:
            service.sessions.discard(session)
            await session.close()


async def _refuse(service: Service, websocket: WebSocket) -> None:
    """No place: said in words, and closed with "try again later"."""
    code = "server_shutting_down" if service.draining else "session_limit_reached"
    service.metrics.refused.labels(code).inc()
    error = EventError("the server has no free session; try again later", code, kind="server_error")
    try:
        await websocket.send_json({"event_id": "event_refused", **error.to_event(None)})
        await websocket.close(1013, "try again later")
    except (WebSocketDisconnect, RuntimeError):
        log.debug("a client left before it was refused")


async def _converse(service: Service, session: RealtimeSession, websocket: WebSocket) -> None:
    """Read and write side by side until one of them ends; then close for the reason there is."""
    session.begin()
    tasks = {
        asyncio.create_task(_read(service, session, websocket)),
        asyncio.create_task(session.outbox.run()),
        asyncio.create_task(_wait(session.closing)),
    }
    code, reason = 1000, ""
    try:
        done, _ = await asyncio.wait(tasks, timeout=service.limits.max_session_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            code, reason = 1000, "session expired"
            session.tell_error(EventError("the session has reached its longest duration", "session_expired"))
        elif session.closing.is_set():
            code, reason = 1012, "server restart"
        for task in done:
            task.result()
        await asyncio.wait_for(session.outbox.flushed(), _CLOSE_S)
    except SlowReader as error:
        code, reason = 1008, "reads too slowly"
        service.metrics.refused.labels("slow_reader").inc()
        log.info("%s: dropped, %s", session.id, error)
    except asyncio.TimeoutError:
        log.debug("%s: the last words were not taken", session.id)
    except (WebSocketDisconnect, RuntimeError):
        return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    try:
        await asyncio.wait_for(websocket.close(code, reason), _CLOSE_S)
    except (WebSocketDisconnect, RuntimeError, asyncio.TimeoutError):
        log.debug("%s: gone before it was closed", session.id)


async def _read(service: Service, session: RealtimeSession, websocket: WebSocket) -> None:
    """Client events until it leaves, or is silent for too long."""
    while True:
        await session.outbox.room()
        try:
            left_s = session.active_at + service.limits.idle_s - time.monotonic()
            message = await asyncio.wait_for(websocket.receive(), max(0.0, left_s))
        except asyncio.TimeoutError:
            session.tell_error(EventError("no event for too long", "session_idle"))
            return
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text = message.get("text")
        await session.receive(text if text is not None else message.get("bytes") or b"")


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def make_server(app: Any, service: Service, host: str, port: int, **options: Any) -> Any:
    """A uvicorn server; at its end (SIGTERM, Ctrl-C) running replies finish, or end with ``response.done``.

    Args:
        app: of `create_app`.
        service: the same.
        host: address to listen at.
        port: its port.
        **options: of `uvicorn.Config`.
    """
    import uvicorn

    from echox.serving.access.uvicorn_protocols import protocol_options

    connections = Connections(service.limits, time.monotonic, lambda code: service.metrics.refused.labels(code).inc())

    class Server(uvicorn.Server):
        open_connections: Connections

        async def startup(self, sockets: Any = None) -> None:
            self._watch = asyncio.create_task(connections.watch())
            await super().startup(sockets)

        async def shutdown(self, sockets: Any = None) -> None:
            await service.drain()  # before the connections are closed
            await super().shutdown(sockets)
            self._watch.cancel()

    settings: dict[str, Any] = {
        "log_config": None,  # this process's own; uvicorn's would write past it
        "log_level": "warning",
        "access_log": False,
        "backlog": BACKLOG,
        "ws_max_size": service.limits.max_message_bytes,
        "ws_per_message_deflate": False,  # base64 of sound does not get smaller, only slower
        "timeout_graceful_shutdown": 5,
        **protocol_options(connections),
    }
    server = Server(uvicorn.Config(app, host, port, **{**settings, **options}))
    server.open_connections = connections
    return server
