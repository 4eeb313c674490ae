"""uvicorn's HTTP and WebSocket protocols, with the bounds that uvicorn leaves to others.

Added: the number of connections and the time for a request (`Connections`), a strict body grammar, blocks small
enough that parsing one never holds the event loop for long, and an end to control frames and empty fragments.

Source: RFC 9112 sections 6.1 and 7.1 (message framing), RFC 6455 section 5.4 and 5.5 (fragments, control frames).
"""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from echox.serving.access.connections import Connection, Connections

_HEADER_BYTES = 32 * 1024  # of one request
_READ_BYTES = 16 * 1024  # of one read: 2,700 of the smallest frames or chunks, parsed in about 20 ms
_MANY_CHUNKS, _CHUNK_BYTES = 1000, 64  # so many chunks must hold so many bytes each, on average
_FOLDED = re.compile(rb"\n[ \t]")
_LATE_BYTES = 64 * 1024  # kept of what comes after the server has closed a WebSocket; the rest is dropped
_MAX_FRAGMENTS = 1024  # of one message
_CONTROL_FRAMES = 50  # a second; twice as many at once
_TIMEOUT_REPLY = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\ncontent-length: 15\r\nconnection: close\r\n\r\n"
    b"Request Timeout"
)
_HANDSHAKE_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 33\r\nconnection: close\r\n\r\n"
    b"Invalid or too large an upgrade.\n"
)


class StrictConnection(h11.Connection):
    """h11's parser, stricter: no folded header lines, and no bodies in needlessly many chunks.

    A folded line (RFC 9112 section 5.2) is joined by some readers and ignored by others; a chunk costs as much time as
    a kilobyte.
    """

    _chunks = _body_bytes = 0

    def next_event(self) -> Any:
        """As h11's.

        Raises:
            h11.RemoteProtocolError: what the client sent is no HTTP, or wastefully written.
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
    """What both protocols share: an entry among the connections, and small reads. Stands before uvicorn's class."""

    transport: Any
    connections_of_server: Connections
    entry: Connection | None = None

    def _enter(self, transport: Any, entry: Connection | None) -> bool:
        self.entry = entry
        if isinstance(getattr(transport, "max_size", None), int):  # asyncio's own sockets: the size of one read
            transport.max_size = _READ_BYTES
        return entry is not None

    def _flooded(self) -> bool:
        """Whether the client sends without reading; then it is gone."""
        if self.transport.get_write_buffer_size() <= 2 * self.connections_of_server.limits.max_unsent_bytes:
            return False
        self.transport.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.connections_of_server.close(self.transport)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read."""
        if self.entry is not None:
            self.entry.blocked_since = self.connections_of_server.now
        super().pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        if self.entry is not None:
            self.entry.blocked_since = None
        super().resume_writing()


class HttpProtocol(_Bounded, H11Protocol):
    """HTTP/1.1.

    Args:
        connections_of_server: all connections. **options: of uvicorn's protocol.
    """

    def __init__(self, connections_of_server: Connections, **options: Any) -> None:
        H11Protocol.__init__(self, **options)
        self.connections_of_server = connections_of_server
        self.conn = StrictConnection(h11.SERVER, _HEADER_BYTES)
        self._stage: Any = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        if self._enter(transport, self.connections_of_server.open(transport)):
            self._note_stage()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self.entry is None or self._flooded():
            return
        super().data_received(data)
        if self.transport.get_protocol() is self:  # else it is a WebSocket now, which waits for no body
            self._note_stage()

    def on_response_complete(self) -> None:
        """A response was sent: the next request may come."""
        super().on_response_complete()
        self._stage = None
        self._note_stage()

    def _note_stage(self) -> None:
        """Whether the server waits for a header, a body, or not at all."""
        stage, limits = self.conn.their_state, self.connections_of_server.limits
        if self.entry is None or stage is self._stage:
            return
        self._stage = stage
        if stage is h11.IDLE:
            self.entry.wait(self.connections_of_server.now, limits.header_s, self._expire)
        elif stage is h11.SEND_BODY:  # the application counts, too, and answers in more words
            self.entry.wait(self.connections_of_server.now, limits.body_s + 2, self._expire)
        else:
            self.entry.arrived()

    def _expire(self) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # no response has begun
            self.transport.write(_TIMEOUT_REPLY)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; when a response has begun already, only the connection can end."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()


class WebSocketProtocol(_Bounded, WebSocketsSansIOProtocol):
    """WebSocket, from the upgrade on.

    Args:
        connections_of_server: all connections. **options: of uvicorn's protocol.
    """

    def __init__(self, connections_of_server: Connections, **options: Any) -> None:
        WebSocketsSansIOProtocol.__init__(self, **options)
        self.connections_of_server = connections_of_server
        self._control_frames, self._counted_at = 0.0, connections_of_server.now
        self._late_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Take the connection over from `HttpProtocol`."""
        super().connection_made(transport)
        self._enter(transport, self.connections_of_server.get(transport))
        if self.entry is not None:
            connections = self.connections_of_server
            self.entry.wait(connections.now, connections.limits.header_s, transport.close)

    def data_received(self, data: bytes) -> None:
        """Bytes of the handshake, then of frames; behind our goodbye only the client's is of interest."""
        if self._flooded():
            return
        if self.close_sent:
            self._late_bytes += len(data)
            if self._late_bytes > _LATE_BYTES:
                return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            # The HTTP parser took the upgrade, that of WebSockets did not: nobody else would answer.
            self.transport.write(_HANDSHAKE_REPLY)
            self.transport.close()

    def handle_connect(self, event: Any) -> None:
        """The handshake is complete: the server does not wait for the client any more."""
        if self.entry is not None:
            self.entry.arrived()
        super().handle_connect(event)

    async def send(self, message: Any) -> None:
        """As uvicorn's; a client that was accepted is not read before the application asks for a message.

        It may still wait for a place among the sessions, and a message takes much memory.
        """
        await super().send(message)
        if message["type"] == "websocket.accept" and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def receive(self) -> Any:
        """As uvicorn's: the next message."""
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return await super().receive()

    def handle_cont(self, event: Any) -> None:
        """A further fragment; empty ones would go on for ever."""
        if len(self.frames) >= _MAX_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {_MAX_FRAGMENTS} fragments")
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless there are too many."""
        if self._may_control():
            super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        """A pong, asked for or not."""
        if self._may_control():
            super().handle_pong(event)

    def _may_control(self) -> bool:
        now = self.connections_of_server.now
        gone = (now - self._counted_at) * _CONTROL_FRAMES
        self._control_frames, self._counted_at = max(0.0, self._control_frames - gone) + 1, now
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


def protocol_options(connections: Connections) -> dict[str, Any]:
    """Options of ``uvicorn.Config`` that put these protocols in place."""
    return {
        "http": functools.partial(HttpProtocol, connections),
        "ws": functools.partial(WebSocketProtocol, connections),
        "loop": "asyncio",  # its sockets' reads can be made small
    }
