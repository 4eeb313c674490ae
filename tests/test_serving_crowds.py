"""Many clients that mean no good, or do no good: half requests, slow bodies, floods, huge JSON, ambiguous framing."""

import asyncio
import base64
import contextlib
import json
import logging
import resource
import socket
import struct
import subprocess
import sys
import time

import httpx
import pytest
import websockets

from echox.serving.connections import Connections, connection_limit, files_for, share
from echox.serving.limits import Limits
from echox.serving.log_limit import LogLimit, limited_logging
from echox.serving.places import Full, Places, Uploads
from echox.serving.protocols import WebSocketProtocol
from echox.serving.security import Door
from serving_help import connected, nano, question, running, user_text

FRANCE = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 4}
HALF_A_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-"
SLOW_BODY = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100000\r\n\r\n{"
)


@contextlib.contextmanager
def crowd(port, count, first_bytes):
    """So many connections, each of which has sent a little."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)))
            with contextlib.suppress(OSError):
                found[-1].sendall(first_bytes)
        yield found


def raw(port, data, timeout_s=10.0):
    """All that the server answers, until it closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
        answer = b""
        try:
            while part := client.recv(65536):
                answer += part
        except TimeoutError:
            return answer, False
        except OSError:  # reset, because it did not read what came behind
            pass
        return answer, True


def until(condition, what, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def measured_lag(server, lags):
    """The longest time, s, in which the server's event loop did nothing else, goes to `lags`."""
    loop, done = server.service._upkeep.get_loop(), []

    async def watch():
        longest = 0.0
        while not done:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began - 0.005)
        return longest

    watching = asyncio.run_coroutine_threadsafe(watch(), loop)
    try:
        yield
    finally:
        done.append(True)
        lags.append(watching.result(60))


# ------------------------------------------------------------------------------------------------ connections


def test_half_open_requests_neither_deafen_the_server_nor_stay():
    limits = Limits(max_connections=20, header_s=1.0)
    with running(nano(), limits) as server, crowd(server.port, 60, HALF_A_REQUEST):
        assert httpx.get(f"{server.url}/health", timeout=5).status_code == 200  # made room for itself
        assert len(server.server.open_connections) <= 20
        assert "connection_evicted" in server.service.metrics.text().decode()
        until(lambda: len(server.server.open_connections) == 0, "half a request may not stay")


def test_a_request_that_was_begun_may_not_trickle():
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


def test_slow_bodies_hold_no_places():
    with running(nano(), Limits(max_requests=2, max_waiting=2, body_s=2.0)) as server:
        with crowd(server.port, 24, SLOW_BODY) as clients:
            until(lambda: len(server.server.open_connections) == 24, "all are in")
            assert server.service.request_places.taken == 0
            found = httpx.post(f"{server.url}/v1/chat/completions", json=FRANCE, timeout=20)
            assert found.status_code == 200, found.text
            clients[0].settimeout(10)
            assert b"408" in clients[0].recv(1000).split(b"\r\n")[0]
        until(lambda: server.service.uploads.used == 0, "what was uploaded is forgotten")


def test_a_body_behind_a_refusal_may_not_trickle_either():
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with running(nano(), Limits(body_s=0.5), Door("secret")) as server:
        answer, closed = raw(server.port, head)
        assert b" 401 " in answer
        assert closed
        until(lambda: len(server.server.open_connections) == 0, "the rest of a refused request is not awaited")


def test_uploads_share_one_memory():
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 600_000}]}).encode()
    with running(nano(), Limits(max_uploading_bytes=500_000)) as server:
        found = httpx.post(f"{server.url}/v1/chat/completions", content=body, timeout=20)
        assert found.status_code == 503
        assert httpx.post(f"{server.url}/v1/chat/completions", json=FRANCE, timeout=20).status_code == 200
        assert server.service.uploads.used == 0


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
    assert crowd.most == 8
    theirs = [Wire("203.0.113.7") for _ in range(6)]
    for wire in theirs:
        now[0] += 1
        entry = crowd.open(wire)
        assert entry is not None
        entry.wait(now[0], 10.0, wire.abort)
    assert [wire.aborted for wire in theirs] == [True, True, False, False, False, False]
    for entry in crowd._open.values():
        entry.arrived()  # at work: not to be closed
    assert crowd.open(Wire("203.0.113.7")) is None
    others = [Wire("203.0.113.8") for _ in range(4)]
    assert all(crowd.open(wire) for wire in others)
    assert refused.count("too_many_connections") == 1


def test_this_machine_has_no_share_but_the_same_deadline():
    now = [0.0]
    crowd = Connections(Limits(max_connections=4), lambda: now[0], lambda _: None)
    wires = [Wire("127.0.0.1") for _ in range(4)]
    for wire in wires:
        crowd.open(wire).wait(0.0, 10.0, wire.abort)
    now[0] = 9.9
    crowd.sweep()
    assert not any(wire.aborted for wire in wires)
    now[0] = 10.1
    crowd.sweep()
    assert all(wire.aborted for wire in wires)


def test_who_does_not_read_and_who_does_not_go_is_dropped():
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
    assert files_for(connection_limit(5000, 1024)) == 1024
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

        until(is_up, "the server did not start", 200)
        for _ in range(2):
            with crowd(port, 550, HALF_A_REQUEST):
                for _ in range(5):
                    assert httpx.get(url, timeout=5).status_code == 200
        assert server.poll() is None
        assert (tmp_path / "log").stat().st_size < 20_000, (tmp_path / "log").read_bytes()[-2000:]
    finally:
        server.terminate()
        server.wait(40)


def test_the_log_does_not_grow_with_the_crowd(caplog):
    now, limit = [0.0], LogLimit(count=2, period_s=10.0, clock=lambda: now[0])
    logger = logging.getLogger("echox.tests.crowd")
    logger.addFilter(limit)
    for now[0] in [0.0] * 100 + [11.0]:
        logger.warning("bad request of %s", "x")
    assert [record.getMessage() for record in caplog.records] == [
        "bad request of x",
        "bad request of x",
        "bad request of x (98 more like this were not written)",
    ]


BAD_FORM = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\nno form\r\n"
)


@pytest.mark.parametrize(
    ("request_bytes", "logger"),
    [(b"\x00\r\n\r\n", "uvicorn.error"), (BAD_FORM, "python_multipart.multipart")],
)
def test_bad_requests_are_logged_a_few_times(caplog, request_bytes, logger):
    with running(nano()) as server:
        for _ in range(30):
            raw(server.port, request_bytes)
    assert 0 < len([record for record in caplog.records if record.name == logger]) < 15


def test_a_limit_before_several_handlers_counts_a_message_once(monkeypatch):
    class Kept(logging.Handler):
        def __init__(self):
            super().__init__()
            self.texts = []

        def emit(self, record):
            self.texts.append(record.getMessage())

    handlers = [Kept(), Kept()]
    parent, logger = logging.getLogger("echox.tests"), logging.getLogger("echox.tests.some.library")
    monkeypatch.setattr(parent, "handlers", handlers)
    with limited_logging():
        for number in range(20):
            logger.warning("bad request %d", number)
    assert handlers[0].texts == handlers[1].texts == [f"bad request {number}" for number in range(5)]
    logger.warning("the limit has gone with the server")
    assert len(handlers[0].texts) == 6


# ------------------------------------------------------------------------------------------------ places


def test_one_address_gets_its_share_of_places_and_of_the_queue():
    async def all_of():
        places = Places(4, 4, 0.05, client_share=0.5)
        for _ in range(2):
            await places.take("203.0.113.7")
        with pytest.raises(Full):
            await places.take("203.0.113.7")
        for _ in range(2):
            await places.take("203.0.113.8")
        with pytest.raises(Full):  # waits in vain
            await places.take("203.0.113.9")
        assert (places.taken, places.waiting) == (4, 0)
        places.give("203.0.113.7")
        await places.take("203.0.113.7")
        for client in ("203.0.113.7", "203.0.113.7", "203.0.113.8", "203.0.113.8"):
            places.give(client)
        for _ in range(4):
            await places.take("127.0.0.1")
        assert not places._present.keys() - {"127.0.0.1"}

    asyncio.run(all_of())


def test_one_address_gets_its_share_of_memory():
    uploads = Uploads(100, client_share=0.5)
    with uploads.receiving("203.0.113.7") as one, uploads.receiving("203.0.113.7") as two:
        one.add(40)
        with pytest.raises(Full):
            two.add(20)
        two.add(10)
        with uploads.receiving("203.0.113.8") as three, pytest.raises(Full):
            three.add(40)
            three.add(20)
    assert uploads.used == 0


def test_behind_a_proxy_its_clients_are_told_apart():
    def headers(address):
        return {"additional_headers": {"X-Forwarded-For": address}}

    async def all_of(server):
        async with connected(server, **headers("203.0.113.7")):
            async with websockets.connect(server.ws_url, **headers("203.0.113.7")) as second:
                assert json.loads(await second.recv())["error"]["code"] == "session_limit_reached"
            async with connected(server, **headers("203.0.113.8")):
                pass

    with running(nano(), Limits(max_sessions=2)) as server:
        asyncio.run(all_of(server))


def test_who_waits_for_a_place_is_not_read_before_it_has_one():
    async def all_of(server):
        async with websockets.connect(server.ws_url) as first, websockets.connect(server.ws_url) as second:
            await first.recv()
            sending = asyncio.create_task(second.send("x" * 15 * 2**20))
            await asyncio.wait({sending}, timeout=1.0)
            assert server.service.session_places.waiting == 1
            protocols = [one for one in server.server.server_state.connections if isinstance(one, WebSocketProtocol)]
            assert len(protocols) == 2
            for one in protocols:
                assert one.queue.qsize() == 0
                assert len(one.conn.reader.buffer) < 2**20
            await first.close()
            assert json.loads(await second.recv())["type"] == "session.created"
            await sending
            assert json.loads(await second.recv())["error"]["code"] == "invalid_json"

    with running(nano(), Limits(max_sessions=1, wait_s=30.0)) as server:
        asyncio.run(all_of(server))


# ------------------------------------------------------------------------------------------------ JSON


@pytest.fixture(scope="module")
def server():
    with running(nano()) as server:
        yield server


def bombs(size):
    """Texts of so many bytes that are many objects, and what they are."""
    for item in ("{}", "[]", "0", '""', '{"":{}}'):
        many = size // (len(item) + 1) - 20
        yield f"many {item}", '{"messages":[' + ",".join([item] * many) + "]}"
    yield "depth", '{"messages":' + "[" * (size // 2 - 20) + "]" * (size // 2 - 20) + "}"
    yield "keys", "{" + ",".join(f'"{n}":0' for n in range(size // 12)) + "}"


def test_large_json_is_refused_before_it_is_built(server):
    for name, text in bombs(20 * 2**20):
        lags = []
        with measured_lag(server, lags):
            found = httpx.post(f"{server.url}/v1/chat/completions", content=text.encode(), timeout=60)
        assert found.status_code == 400, (name, found.text)
        assert lags[0] < 1.0, (name, lags)


def test_nested_json_is_refused_whatever_its_length(server):
    for depth in (33, 900, 5000):
        text = '{"messages":' + "[" * depth + "]" * depth + "}"
        found = httpx.post(f"{server.url}/v1/chat/completions", content=text, timeout=20)
        assert found.json()["error"]["code"] == "invalid_json"


def test_requests_without_audio_are_short(server):
    text = json.dumps({"messages": [{"role": "user", "content": "x" * 19_000}] * 100}).encode()
    assert httpx.post(f"{server.url}/v1/chat/completions", content=text, timeout=20).status_code == 413
    body = {"input": "x", "padding": "x" * 2**20}
    assert httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=20).status_code == 413


def test_large_messages_of_a_conversation_hold_nobody_up(server):
    silence = base64.b64encode(bytes(2 * 24000 * 100)).decode()  # 100 s

    async def all_of():
        async with connected(server) as client:
            for _, text in bombs(15 * 2**20):
                await client.socket.send(text)
                assert (await client.until("error", 60))["error"]["code"] == "invalid_json"
            await client.send("x" * 2**20)
            error = (await client.until("error", 60))["error"]
            assert len(json.dumps(error)) < 1000
            await client.send("input_audio_buffer.append", audio=silence)
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared", 60)
            part = {"type": "input_audio", "audio": silence}
            await client.send(
                "conversation.item.create", item={"type": "message", "role": "user", "content": [part], "id": "sound"}
            )
            await client.until("conversation.item.done", 60)
            await client.send("conversation.item.retrieve", item_id="sound")
            await client.until("conversation.item.retrieved", 60)
            await client.send("conversation.item.delete", item_id="sound")
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create")
            assert (await client.until("response.done"))["response"]["status"] == "completed"

    lags = []
    with measured_lag(server, lags):
        asyncio.run(all_of())
    assert lags[0] < 1.0


# ------------------------------------------------------------------------------------------------ framing

HEAD = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"


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


def test_requests_in_a_row_are_all_answered(server):
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer, _ = raw(server.port, one * 50 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 ") == 51


# ------------------------------------------------------------------------------------------------ frames


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


def test_a_message_in_many_fragments_and_a_few_pings_are_well(server):
    async def all_of():
        async with connected(server) as client:
            text = json.dumps({"type": "input_audio_buffer.clear", "event_id": "x"})
            await client.socket.send(list(text))
            await client.until("input_audio_buffer.cleared")
            for _ in range(20):
                await (await client.socket.ping())

    asyncio.run(all_of())


# ------------------------------------------------------------------------------------------------ speech


def test_text_to_speech_has_an_end(server):
    body = {"input": "word " * 1000, "response_format": "pcm"}
    found = httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=20)
    assert found.status_code == 400
    assert found.json()["error"]["code"] == "string_too_long"


@pytest.mark.parametrize("response_format", ["wav", "pcm"])
def test_speech_ends_with_its_client(server, response_format):
    scheduler = nano().scheduler
    body = json.dumps({"input": "The capital of France is Paris. " * 120, "response_format": response_format}).encode()
    head = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(head + body)
        until(lambda: scheduler.num_running, "it did not begin")
    until(lambda: not scheduler.num_running and not server.service.request_places.taken, "still speaking")


def test_sound_in_a_question_is_still_welcome(server):
    from echox.audio import encode_audio

    data = base64.b64encode(encode_audio(question(0, 24000), 24000)).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 8}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
