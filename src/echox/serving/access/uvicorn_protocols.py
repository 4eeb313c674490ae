"""uvicorn's server, HTTP protocol and WebSocket protocol, with limits that uvicorn does not have.

Added are limits on connections and on the time of a request (`Connections`), a stricter HTTP parser, small reads (so
that parsing one never blocks the event loop for long), and limits on control frames and on fragments.

Source: RFC 9112 sections 6.1 and 7.1 (message framing), RFC 6455 section 5.4 and 5.5 (fragments, control frames).
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from echox.serving.access.connections import Connection, Connections

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request

_HEADER_BYTES = 32 * 1024  # of one request
_READ_BYTES = 16 * 1024  # of one read: 2,700 of the smallest frames or chunks, parsed in about 20 ms
_MANY_CHUNKS, _CHUNK_BYTES = 1000, 64  # from this number of chunks on, they must hold this number of bytes on average
_FOLDED = re.compile(rb"\n[ \t]")
_LATE_BYTES = 64 * 1024  # read after the server has sent a close frame; the rest is dropped
_MAX_FRAGMENTS = 1024  # of one message
_CONTROL_FRAMES = 50  # per second; twice as many in a burst
_TIMEOUT_REPLY = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\ncontent-length: 15\r\nconnection: close\r\n\r\n"
    b"Request Timeout"
)
_HANDSHAKE_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 33\r\nconnection: close\r\n\r\n"
    b"Invalid or too large an upgrade.\n"
)


class StrictConnection(h11.Connection):
    """The parser of h11, stricter: it refuses folded header lines, and bodies in very many small chunks.

    Some readers join a folded line (RFC 9112 section 5.2), others ignore it. A chunk costs as much time as a kilobyte.
    """

    _chunks = _body_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event, as in h11.

        Raises:
            h11.RemoteProtocolError: the bytes are not HTTP, or have a folded line or too many small chunks.
        """
        before = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._body_bytes = 0
            head = before[: len(before) - len(self.trailing_data[0])]
            if _FOLDED.search(head):
                raise h11.RemoteProtocolError("folded header line")
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._body_bytes += len(event.data)
            if self._chunks > _MANY_CHUNKS and self._body_bytes < self._chunks * _CHUNK_BYTES:
                raise h11.RemoteProtocolError("too many small chunks")
        return event


class _Bounded(asyncio.Protocol):
    """Common part of both protocols: the entry in `Connections`, and small reads. List it before uvicorn's class."""

    transport: asyncio.Transport
    connections_of_server: Connections
    entry: Connection | None = None

    def _set_entry(self, transport: asyncio.Transport, entry: Connection | None) -> bool:
        self.entry = entry
        if isinstance(getattr(transport, "max_size", None), int):  # transports of asyncio: the size of one read
            transport.max_size = _READ_BYTES  # type: ignore[attr-defined]  # of asyncio's transports only
        return entry is not None

    def _drop_if_flooding(self) -> bool:
        """Close the connection of a client that sends without reading; whether it did."""
        if self.transport.get_write_buffer_size() <= 2 * self.connections_of_server.limits.max_unsent_bytes:
            return False
        self.transport.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected."""
        self.connections_of_server.close(self.transport)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read."""
        if self.entry is not None:
            self.entry.block(True)
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self.entry is not None:
            self.entry.block(False)
        super().resume_writing()


class HttpProtocol(_Bounded, H11Protocol):
    """HTTP/1.1.

    Args:
        connections_of_server: all connections.
        **options: options of uvicorn's protocol.
    """

    def __init__(self, connections_of_server: Connections, **options: Any) -> None:
        H11Protocol.__init__(self, **options)
        self.connections_of_server = connections_of_server
        self.conn = StrictConnection(h11.SERVER, _HEADER_BYTES)
        self._stage: object = None  # state of the client, as h11 names it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has connected."""
        super().connection_made(transport)
        if self._set_entry(transport, self.connections_of_server.open(transport)):
            self._note_stage()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self.entry is None or self._drop_if_flooding():
            return
        super().data_received(data)
        if self.transport.get_protocol() is self:  # otherwise it is a WebSocket now, which has no body
            self._note_stage()

    def on_response_complete(self) -> None:
        """A response was sent; the next request may follow."""
        super().on_response_complete()
        self._stage = None
        self._note_stage()

    def _note_stage(self) -> None:
        """Note whether the server waits for a header, for a body, or not at all."""
        stage, limits = self.conn.their_state, self.connections_of_server.limits
        if self.entry is None or stage is self._stage:
            return
        self._stage = stage
        if stage is h11.IDLE:
            self.entry.start_waiting(self.connections_of_server.now, limits.header_s, self._expire)
        elif stage is h11.SEND_BODY:  # the application has the same limit, and a better message
            self.entry.start_waiting(self.connections_of_server.now, limits.body_s + 2, self._expire)
        else:
            self.entry.stop_waiting()

    def _expire(self) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # no response has begun
            self.transport.write(_TIMEOUT_REPLY)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP. If a response has started already, close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()


class WebSocketProtocol(_Bounded, WebSocketsSansIOProtocol):
    """WebSocket, beginning with the upgrade.

    Args:
        connections_of_server: all connections.
        **options: options of uvicorn's protocol.
    """

    def __init__(self, connections_of_server: Connections, **options: Any) -> None:
        WebSocketsSansIOProtocol.__init__(self, **options)
        self.connections_of_server = connections_of_server
        self._control_frames, self._counted_at = 0.0, connections_of_server.now
        self._late_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take the connection over from `HttpProtocol`."""
        super().connection_made(transport)
        self._set_entry(transport, self.connections_of_server.get(transport))
        if self.entry is not None:
            connections = self.connections_of_server
            self.entry.start_waiting(connections.now, connections.limits.header_s, transport.close)

    def data_received(self, data: bytes) -> None:
        """Bytes of the handshake or of frames. After the server has sent a close frame, only a few are read."""
        if self._drop_if_flooding():
            return
        if self.close_sent:
            self._late_bytes += len(data)
            if self._late_bytes > _LATE_BYTES:
                return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            # The HTTP parser accepted the upgrade and the WebSocket parser did not: without this there is no answer.
            self.transport.write(_HANDSHAKE_REPLY)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        """The handshake is complete: the server does not wait any longer."""
        if self.entry is not None:
            self.entry.stop_waiting()
        super().handle_connect(event)

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message. After the handshake nothing is read until the application asks for a message.

        The client may still wait to be admitted, and a message may take much memory.
        """
        await super().send(message)
        if message["type"] == "websocket.accept" and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """The next message."""
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return await super().receive()

    def handle_cont(self, event: Frame) -> None:
        """A further fragment. Their number is limited, because empty ones could continue for ever."""
        if len(self.frames) >= _MAX_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {_MAX_FRAGMENTS} fragments")
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless there are too many."""
        if self._control_frame_allowed():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """A pong, requested or not."""
        if self._control_frame_allowed():
            super().handle_pong(event)

    def _control_frame_allowed(self) -> bool:
        now = self.connections_of_server.now
        elapsed = (now - self._counted_at) * _CONTROL_FRAMES
        self._control_frames, self._counted_at = max(0.0, self._control_frames - elapsed) + 1, now
        if self._control_frames <= 2 * _CONTROL_FRAMES:
            return True
        self._fail(CloseCode.POLICY_VIOLATION, "too many control frames")
        return False

    def _fail(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def protocol_options(connections: Connections) -> dict[str, object]:
    """Options of ``uvicorn.Config`` that select these protocols."""
    return {
        "http": functools.partial(HttpProtocol, connections),
        "ws": functools.partial(WebSocketProtocol, connections),
        "loop": "asyncio",  # the size of its reads can be limited
    }


class DrainingServer(uvicorn.Server):
    """A uvicorn server that waits for running replies at shutdown, and closes overdue connections.

    Args:
        config: configuration of uvicorn.
        drain: waits for running replies.
        open_connections: the connections of its protocols.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]], open_connections: Connections
    ) -> None:
        super().__init__(config)
        self.open_connections, self._drain = open_connections, drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and to close overdue connections."""
        self._watch = asyncio.create_task(self.open_connections.watch())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for running replies; then close all connections."""
        await self._drain()
        await super().shutdown(sockets)
        self._watch.cancel()
