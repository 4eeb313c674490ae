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
        self.client, self.aborted, self.closing, self.unsent = client, False, False, 0

    def get_extra_info(self, _):
        return (self.client, 1)

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return self.unsent

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


STATES = {
    "blocked": lambda wire, entry: entry.block(True),
    "closing": lambda wire, entry: setattr(wire, "closing", True),
    "idle": lambda wire, entry: entry.start_waiting(0.0, 10.0, lambda: None),
}
READERS = {  # time -> bytes that are still unsent of 1,000,000; and when the connection is dropped, about
    "reads nothing": (lambda now_s: 1_000_000, 25),
    "reads some and stops": (lambda now_s: 1_000_000 - 10_000 * min(now_s, 30), 55),
    "reads steadily": (lambda now_s: 1_000_000 - 20_000 * now_s, None),
    "reads in lumps": (lambda now_s: 1_000_000 - 400_000 * (now_s // 20), None),
    "reads a byte now and then": (lambda now_s: 1_000_000 - now_s, 86),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("state", STATES)
def test_who_reads_gets_all_and_who_does_not_is_dropped(state, reader):
    now, refused = [0.0], []
    crowd = Connections(Limits(send_s=20, min_bytes_per_s=16_384), lambda: now[0], refused.append)
    wire = Wire("127.0.0.1")
    STATES[state](wire, crowd.open(wire))
    unsent, end_s = READERS[reader]
    dropped_s = None
    for now[0] in range(200):
        wire.unsent = max(0, unsent(now[0]))
        crowd.sweep()
        if wire.aborted and dropped_s is None:
            dropped_s = now[0]
    assert dropped_s == (None if end_s is None else pytest.approx(end_s, abs=2))
    assert refused.count("slow_reader") == (end_s is not None)


def test_a_stream_that_goes_on_is_judged_by_each_part():
    now = [0.0]
    crowd = Connections(Limits(send_s=20), lambda: now[0], lambda _: None)
    wire = Wire("127.0.0.1")
    entry = crowd.open(wire)
    for now[0] in range(1000):
        wire.unsent = 50_000  # at each look another part
        entry.block(now[0] % 10 < 8)
        crowd.sweep()
    assert not wire.aborted


def test_whoever_still_reads_is_the_last_to_be_closed_for_others():
    crowd = Connections(Limits(max_connections=4), lambda: 9.0, lambda _: None)
    wires = [Wire("127.0.0.1") for _ in range(4)]
    for number, wire in enumerate(wires):
        crowd.open(wire).start_waiting(float(number), 10.0, wire.abort)
    wires[0].unsent = wires[1].unsent = 1000
    for _ in range(3):
        assert crowd.open(Wire("127.0.0.1"))
    assert [wire.aborted for wire in wires] == [True, False, True, True]


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_large_answer_arrives_whole_at_a_client_that_reads_slowly(monkeypatch, keep_alive):
    """Slower than every time that a server waits for one that does not read, for a request, or for a close."""
    monkeypatch.setattr("echox.serving.access.connections._LINGER_S", 0.5)
    monkeypatch.setattr("echox.serving.access.connections._SWEEP_S", 0.05)
    body = bytes(8_000_000)  # of which the system takes some

    async def answer(scope, receive, send):
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    limits = Limits(send_s=1.0, header_s=0.5)
    with running(nano(), limits, app=answer, timeout_keep_alive=0) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.settimeout(10)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"Connection: close\r\n" * (not keep_alive) + b"\r\n")
        found = 0
        with contextlib.suppress(ConnectionError):
            while part := client.recv(50_000):
                found += len(part)
                time.sleep(0.02)  # fixed time: the pace of the client, who needs three seconds at least
        assert found > len(body)


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
