"""Ambiguous requests, and too many small chunks or frames, end the connection."""

import asyncio
import contextlib
import json
import struct

import pytest
import websockets

from raw_clients import HEAD, measured_lag, raw
from serving_help import connected, nano, running

CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def server():
    with running(nano()) as server:
        yield server


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}{}",
        HEAD + b"Content-Length: 2, 4\r\n\r\n{}{}",
        HEAD + b"Content-Length: +2\r\n\r\n{}",
        HEAD + b"Content-Length: 0x2\r\n\r\n{}",
        HEAD + b"Content-Length : 2\r\n\r\n{}",
        HEAD + b"Content-Length:\r\n 2\r\n\r\n{}",
        HEAD + b"X: a\r\n\tb\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Host: elsewhere\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"\r\nx\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"\r\n2\r\n{}{}\r\n0\r\n\r\n",
        CHUNKED + b"\r\n" + b"f" * 30 + b"\r\n{}",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n X: folded\x00\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_refused_and_closed(server, request_bytes):
    answer, closed = raw(server.port, request_bytes + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 8)
    assert answer.split(b" ")[1] in (b"400", b"501", b"408"), answer
    assert answer.count(b"HTTP/1.1 ") == 1, answer  # what follows is not taken for a request
    assert closed


def test_a_body_in_the_smallest_chunks_is_refused(server):
    lags = []
    with measured_lag(server, lags):
        answer, closed = raw(server.port, CHUNKED + b"\r\n" + b"1\r\n \r\n" * 200_000)
    assert answer.split(b" ")[1] == b"400"
    assert closed
    assert lags[0] < 1.0


def test_pipelined_requests_are_all_answered(server):
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer, _ = raw(server.port, one * 50 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 ") == 51


def frame(opcode, data=b"", fin=True):
    """A masked frame (key 0)."""
    assert len(data) < 126
    return struct.pack("!BBI", (128 if fin else 0) | opcode, 128 | len(data), 0) + data


async def flooded(server, data):
    """The close code that a client gets that sends this raw."""
    async with websockets.connect(server.ws_url, ping_interval=None) as ws:
        await ws.recv()
        with contextlib.suppress(OSError):
            ws.transport.write(data)
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await asyncio.wait_for(ws.recv(), 20)
        return ws.close_code


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty fragments", frame(1, b"x", fin=False) + frame(0, fin=False) * 200_000, 1009),
        ("pings", frame(9, b"x" * 100) * 50_000, 1008),
        ("pongs", frame(10, b"x" * 100) * 50_000, 1008),
    ],
)
def test_floods_of_frames_end_the_connection(server, name, data, code):
    lags = []
    with measured_lag(server, lags):
        assert asyncio.run(flooded(server, data)) == code, name
    assert lags[0] < 1.0


def test_a_message_in_many_fragments_and_a_few_pings_are_accepted(server):
    async def all_of():
        async with connected(server) as client:
            text = json.dumps({"type": "input_audio_buffer.clear", "event_id": "x"})
            await client.socket.send(list(text))
            await client.until("input_audio_buffer.cleared")
            for _ in range(20):
                await (await client.socket.ping())

    asyncio.run(all_of())
