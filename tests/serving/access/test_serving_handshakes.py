"""Upgrades that the HTTP parser accepts and the WebSocket parser refuses are answered at once and closed."""

import pytest

from raw_clients import raw
from serving_help import nano, running

UPGRADE = (
    b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
PATH = b"/v1/realtime?model=nano"


def request(path: bytes = PATH, more: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + UPGRADE + more + b"\r\n"


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(request(more=b"Content-Length: 5\r\n"), id="length"),
        pytest.param(request(more=b"Transfer-Encoding: chunked\r\n"), id="chunked"),
        pytest.param(request(more=b"".join(b"X-%d: a\r\n" % number for number in range(200))), id="many lines"),
        pytest.param(request(more=b"Cookie: " + b"a" * 9000 + b"\r\n"), id="long line"),
        pytest.param(request(path=PATH + b"&a=" + b"a" * 9000), id="long path"),
    ],
)
def test_a_refused_handshake_is_answered_and_closed(server, data):
    answer, closed = raw(server.port, data)
    assert closed, "the connection stays open, and without a deadline"
    assert answer.startswith(b"HTTP/1.1 4"), answer[:80]
