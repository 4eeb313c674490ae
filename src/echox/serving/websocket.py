"""WebSockets: those that are admitted, and realtime sessions over them, at ``/v1/realtime``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.websockets import WebSocket, WebSocketDisconnect

from echox.serving.protocol.events import EventError
from echox.serving.protocol.wire import AudioFormat
from echox.serving.realtime.serve import first_options, serve_session
from echox.serving.realtime.speech_events import SpeechEvents
from echox.serving.realtime.transport import Disconnected
from echox.serving.rest.common import client_of
from echox.serving.service.outbox import Outbox
from echox.serving.service.service import Service

log = logging.getLogger("echox.serving")


class WebSocketConnection:
    """A WebSocket as the connection of a session: one event in each message, speech in events."""

    plays = False
    max_event_bytes = None

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def send(self, text: str) -> None:
        """Send one event."""
        try:
            await self._websocket.send_text(text)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise Disconnected from error

    def speech(self, response_id: str, model_rate: int, audio_format: AudioFormat, outbox: Outbox) -> SpeechEvents:
        """The speech of one response, in events."""
        return SpeechEvents(response_id, model_rate, audio_format, outbox)

    async def receive(self) -> str | bytes:
        """The next event of the client."""
        try:
            message = await self._websocket.receive()
        except RuntimeError as error:
            raise Disconnected from error
        if message["type"] == "websocket.disconnect":
            raise Disconnected
        text = message.get("text")
        return text if text is not None else message.get("bytes") or b""

    async def close(self, code: int, reason: str) -> None:
        """Close the WebSocket."""
        try:
            await self._websocket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise Disconnected from error


async def serve_websocket(service: Service, websocket: WebSocket) -> None:
    """Serve one realtime WebSocket from handshake to close."""
    async with admitted(service, websocket) as client:
        if client is not None:
            options = first_options(service, websocket.scope, websocket.query_params)
            await serve_session(service, WebSocketConnection(websocket), options)


@asynccontextmanager
async def admitted(service: Service, websocket: WebSocket) -> AsyncIterator[str | None]:
    """Accept a WebSocket and wait for a free session, which ends with the block; None: it was refused, or has left."""
    offered = websocket.scope.get("subprotocols", [])
    try:
        await websocket.accept(subprotocol="realtime" if "realtime" in offered else None)
    except (WebSocketDisconnect, RuntimeError):
        log.debug("a client disconnected before it was accepted")
        yield None
        return
    if "call_id" in websocket.query_params:
        message = "call_id: expected a WebSocket of its own, found the id of a call; a call has one connection only"
        await _refuse(service, websocket, EventError(message, "unsupported_value", "call_id"), 1008)
        yield None
        return
    client = client_of(websocket)
    try:
        await service.admit_session(client)
    except EventError as error:
        await _refuse(service, websocket, error, 1013)
        yield None
        return
    try:
        yield client
    finally:
        service.session_admission.release(client)


async def _refuse(service: Service, websocket: WebSocket, error: EventError, close_code: int) -> None:
    """Send an error event and close; 1013 is "try again later"."""
    service.metrics.refused.labels(error.code).inc()
    try:
        await websocket.send_json({"event_id": "event_refused", **error.to_event(None)})
        await websocket.close(close_code, "try again later" if close_code == 1013 else "unsupported")
    except (WebSocketDisconnect, RuntimeError):
        log.debug("a client disconnected before it was refused")
