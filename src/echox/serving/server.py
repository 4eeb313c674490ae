"""The server: routes, client secrets, health, and a shutdown that waits for running replies."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from echox.serving.access.client_secrets import lifetime_s
from echox.serving.access.connections import BACKLOG, Connections
from echox.serving.access.log_limit import limited_logging
from echox.serving.access.security import STATIC, AccessMiddleware, AccessPolicy, send_refusal
from echox.serving.protocol.events import OBJECT, new_id, take
from echox.serving.responses_websocket import serve_responses
from echox.serving.rest.chat import completions
from echox.serving.rest.common import endpoint, error_response, json_object
from echox.serving.rest.responses.endpoint import respond
from echox.serving.rest.responses.stored import input_items, stored_response
from echox.serving.rest.speech import speak
from echox.serving.rest.transcriptions import transcribe
from echox.serving.service.service import Service
from echox.serving.service.unspoken import UNSPOKEN_HEADER
from echox.serving.webrtc.endpoints import CALLS_PATH, Calls
from echox.serving.webrtc.ice import IceSettings
from echox.serving.websocket import serve_websocket

if TYPE_CHECKING:
    from echox.serving.access.uvicorn_protocols import DrainingServer

log = logging.getLogger("echox.serving")
_PAGE_HEADERS = {
    # Nothing from other origins, no inline code, and no other page may put this one into a frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # checked each time (304 if unchanged): no old page with a new server
}


class PageFiles(StaticFiles):
    """Serves the files of the page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request that no route matches, also a WebSocket."""
        if scope["type"] == "websocket":
            not_found = error_response(404, "not_found", "Not Found; see docs/protocol.md")
            await send_refusal(not_found, scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve one file; a path without a file is 404 for every method."""
        if scope["method"] not in ("GET", "HEAD"):
            await super().get_response(path, {**scope, "method": "HEAD"})
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        response = await super().get_response(path, scope)
        response.headers.update(_PAGE_HEADERS)
        if path.endswith(".js"):  # independent of the system's list of types: with nosniff, browsers are strict
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


def create_app(service: Service, policy: AccessPolicy | None = None, ice: IceSettings | None = None) -> ASGIApp:
    """The application of one service.

    Args:
        service: the service.
        policy: the access policy; None: loopback names only, without a key.
        ice: addresses and servers for the media of calls; None: no calls (WebRTC) are taken.
    """
    calls = Calls(ice)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with limited_logging():
            service.start()
            yield
            await service.drain()
            service.close()

    async def realtime(websocket: WebSocket) -> None:
        await serve_websocket(service, websocket)

    async def responses(websocket: WebSocket) -> None:
        await serve_responses(service, websocket)

    async def upgrade(_: Request) -> Response:
        return error_response(426, "upgrade_required", "this is a WebSocket endpoint", {"Upgrade": "websocket"})

    async def models(_: Request) -> Response:
        card = {"id": service.name, "object": "model", "created": 0, "owned_by": "echox"}
        return JSONResponse({"object": "list", "data": [card]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            return error_response(404, "model_not_found", f"expected the model {service.name!r}")
        return JSONResponse({"id": service.name, "object": "model", "created": 0, "owned_by": "echox"})

    async def voices(_: Request) -> Response:  # Open WebUI asks for both lists
        return JSONResponse({"voices": [{"id": service.name, "name": service.name}]})

    async def speech_models(_: Request) -> Response:
        return JSONResponse({"models": [{"id": service.name}]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        full = service.session_admission.num_admitted >= service.limits.max_sessions
        state = "draining" if service.draining else "full" if full else "ready"
        body = {"status": state, "model": service.name, "vad": service.vad_name}
        return JSONResponse(body, 200 if state == "ready" else 503)

    async def about(_: Request) -> Response:  # for the page; needs no key, like the page itself
        can = {"webrtc": calls.available, "tools": service.calls_tools, "judges_turns": service.turn_judge is not None}
        return JSONResponse({"model": service.name, **can, **asdict(service.model.about)})

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
        Route(CALLS_PATH, endpoint(service, calls.create, limits.max_text_bytes), methods=["POST"]),
        Route(CALLS_PATH + "/{id}/hangup", calls.hang_up, methods=["POST"]),
        Route("/v1/chat/completions", endpoint(service, completions, limits.max_upload_bytes), methods=["POST"]),
        WebSocketRoute("/v1/responses", responses),
        Route("/v1/responses", endpoint(service, respond, limits.max_upload_bytes), methods=["POST"]),
        Route("/v1/responses/{id}", stored_response(service), methods=["GET", "DELETE"]),
        Route("/v1/responses/{id}/input_items", input_items(service), methods=["GET"]),
        Route("/v1/audio/speech", endpoint(service, speak, limits.max_text_bytes), methods=["POST"]),
        Route("/v1/audio/transcriptions", endpoint(service, transcribe, limits.max_upload_bytes), methods=["POST"]),
        Route("/v1/audio/voices", voices),
        Route("/v1/audio/models", speech_models),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        Route("/about.json", about),
    ]
    policy = policy or AccessPolicy()
    inner = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_such_path})
    if STATIC.is_dir():
        # Not a route: it would match every path, and a wrong method for a known path would be answered by 404.
        inner.router.default = PageFiles(directory=STATIC, html=True)
    app: ASGIApp = AccessMiddleware(
        inner, policy, lambda code: service.metrics.refused.labels(code).inc(), service.client_secrets
    )
    if policy.allowed_origins:
        # Lets pages of the allowed origins read responses, refusals among them: it decides nothing else.
        app = CORSMiddleware(
            app,
            allow_origins=list(policy.allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", UNSPOKEN_HEADER],
        )
    return app


async def create_client_secret(service: Service, request: Request, body: bytes) -> JSONResponse:
    """Make a key that expires, for realtime sessions that start with the options of the request."""
    source = await json_object(body or b"{}")
    options = service.session_options()
    options.update(take(source, "session", OBJECT, default={}))
    await service.prepare_tools(options.tools.use, "session.tools")
    secret = service.client_secrets.create(lifetime_s(source), options)
    shown = {"id": new_id("sess"), **options.to_dict()}
    return JSONResponse({"value": secret.value, "expires_at": secret.expires_at, "session": shown})


async def _no_such_path(_: Request, error: Exception) -> Response:
    """The response to an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return error_response(error.status_code, code, f"{error.detail}; see docs/protocol.md", dict(error.headers or {}))


def make_server(app: ASGIApp, service: Service, host: str, port: int, **options: Any) -> DrainingServer:
    """Make a server for an application.

    Args:
        app: result of `create_app`.
        service: its service.
        host: address to listen at.
        port: port to listen at.
        **options: options of `uvicorn.Config`.
    """
    import uvicorn

    from echox.serving.access.uvicorn_protocols import DrainingServer, protocol_options

    connections = Connections(service.limits, time.monotonic, lambda code: service.metrics.refused.labels(code).inc())
    settings: dict[str, Any] = {
        "log_config": None,  # use the logging of this process; that of uvicorn would bypass its limit
        "log_level": "warning",
        "access_log": False,
        "backlog": BACKLOG,
        "ws_max_size": service.limits.max_message_bytes,
        "ws_per_message_deflate": False,  # compression does not make base64 audio smaller
        "timeout_graceful_shutdown": 5,
        **protocol_options(connections),
        **options,
    }
    return DrainingServer(uvicorn.Config(app, host, port, **settings), service.drain, connections)
