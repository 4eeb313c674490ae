"""Limits of connections: half requests, slowly sent requests, and clients that do not read."""

import contextlib
import resource
import socket
import subprocess
import sys
import time

import httpx
import pytest

from echox.serving.access.connections import Connections, connection_limit, files_needed, share
from echox.serving.access.security import AccessPolicy
from echox.serving.protocol.limits import Limits
from raw_clients import crowd, raw
from serving_help import nano, running
from waiting import wait_until

HALF_A_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-"


def test_half_open_requests_are_closed_and_do_not_block_the_server():
    limits = Limits(max_connections=20, header_s=1.0)
    with running(nano(), limits) as server, crowd(server.port, 60, HALF_A_REQUEST):
        assert httpx.get(f"{server.url}/health", timeout=5).status_code == 200  # made room for itself
        assert len(server.server.open_connections) <= 20
        assert "connection_evicted" in server.service.metrics.text().decode()
        wait_until(lambda: len(server.server.open_connections) == 0, "half a request is closed")


def test_a_slowly_sent_request_is_closed():
    with running(nano(), Limits(header_s=0.5)) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            began, answer = time.monotonic(), b""
            client.settimeout(0.05)
            while time.monotonic() - began < 10:
                try:
                    client.sendall(b"GET" if not answer else b" ")
                    part = client.recv(1000)
                except TimeoutError:
                    continue
                except OSError:
                    break
                answer += part
                if not part:
                    break
            assert time.monotonic() - began < 8
            assert b"408" in answer.split(b"\r\n")[0]


def test_a_slowly_sent_body_after_a_refusal_is_closed():
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with running(nano(), Limits(body_s=0.5), AccessPolicy("secret")) as server:
        answer, closed = raw(server.port, head)
        assert b" 401 " in answer
        assert closed
        wait_until(lambda: len(server.server.open_connections) == 0, "a refused request is closed")


class Wire:
    """What `Connections` needs of a transport."""

    def __init__(self, client):
        self.client, self.aborted, self.closing = client, False, False

    def get_extra_info(self, _):
        return (self.client, 1)

    def is_closing(self):
        return self.closing

    def abort(self):
        self.aborted = True


def test_one_address_cannot_take_all_connections():
    now, refused = [0.0], []
    crowd = Connections(Limits(max_connections=8), lambda: now[0], refused.append)
    assert crowd.max_connections == 8
    theirs = [Wire("203.0.113.7") for _ in range(6)]
    for wire in theirs:
        now[0] += 1
        entry = crowd.open(wire)
        assert entry is not None
        entry.start_waiting(now[0], 10.0, wire.abort)
    assert [wire.aborted for wire in theirs] == [True, True, False, False, False, False]
    for entry in crowd._open.values():
        entry.stop_waiting()  # at work: not to be closed
    assert crowd.open(Wire("203.0.113.7")) is None
    others = [Wire("203.0.113.8") for _ in range(4)]
    assert all(crowd.open(wire) for wire in others)
    assert refused.count("too_many_connections") == 1


def test_this_machine_has_no_share_but_the_same_deadline():
    now = [0.0]
    crowd = Connections(Limits(max_connections=4), lambda: now[0], lambda _: None)
    wires = [Wire("127.0.0.1") for _ in range(4)]
    for wire in wires:
        crowd.open(wire).start_waiting(0.0, 10.0, wire.abort)
    now[0] = 9.9
    crowd.sweep()
    assert not any(wire.aborted for wire in wires)
    now[0] = 10.1
    crowd.sweep()
    assert all(wire.aborted for wire in wires)


def test_clients_that_do_not_read_or_do_not_close_are_dropped():
    now = [0.0]
    crowd = Connections(Limits(send_s=20), lambda: now[0], lambda _: None)
    blocked, closing = Wire("127.0.0.1"), Wire("127.0.0.1")
    crowd.open(blocked).blocked_since = 0.0
    crowd.open(closing)
    closing.closing = True
    for now[0] in (1.0, 5.9):
        crowd.sweep()
        assert not closing.aborted
    now[0] = 6.1
    crowd.sweep()
    assert closing.aborted
    assert not blocked.aborted
    now[0] = 26.0
    crowd.sweep()
    assert blocked.aborted
    assert len(crowd) == 0


def test_connections_stay_below_the_open_files():
    assert connection_limit(512, None) == connection_limit(512, 1024) == 512
    assert files_needed(connection_limit(5000, 1024)) == 1024
    with pytest.raises(ValueError, match="expected a limit of .* found 200"):
        connection_limit(512, 200)
    assert share(0.5, 7) == 4
    assert share(0.01, 7) == 1


@pytest.mark.slow
def test_1100_half_open_requests_against_the_command(tmp_path):
    """With few open files allowed, as many systems have it; before, nobody was heard and the log grew by megabytes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))

    command = [sys.executable, "-m", "echox", "serve", "--port", str(port), "--vad", "energy", "--threads", "1"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=few_files)
    try:
        url = f"http://127.0.0.1:{port}/health"

        def is_up():
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(url, timeout=1).status_code == 200
            return False

        wait_until(is_up, "the server has started", 200)
        for _ in range(2):
            with crowd(port, 550, HALF_A_REQUEST):
                for _ in range(5):
                    assert httpx.get(url, timeout=5).status_code == 200
        assert server.poll() is None
        assert (tmp_path / "log").stat().st_size < 20_000, (tmp_path / "log").read_bytes()[-2000:]
    finally:
        server.terminate()
        server.wait(40)
